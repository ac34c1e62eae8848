"""Converts provisional token numbers to places in a vocabulary, in place and piece by piece."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Counts = NDArray[np.int64]

CHUNK = 1 << 22  # tokens
UNKNOWN = "<unk>"


def number(
    tokens: Tokens, train_tokens: int, names: Sequence[str], limit: int | None
) -> dict[str, Any]:
    """Replaces provisional numbers by places in the vocabulary, and returns facts about the tokens.

    Args:
        tokens: the provisional numbers [n], those of the training part first. They are changed in place.
        train_tokens: the number of training tokens.
        names: the text of every provisional number.
        limit: the largest size of the vocabulary, including `<unk>`. None means no limit.
    """
    train = _counts(tokens[:train_tokens], len(names))
    validation = _counts(tokens[train_tokens:], len(names))
    vocabulary, places = _vocabulary(names, train, validation, limit)
    content = hashlib.blake2b("\0".join(vocabulary).encode(), digest_size=32)
    for start in range(0, len(tokens), CHUNK):
        chunk = places[tokens[start : start + CHUNK]]
        content.update(chunk.tobytes())
        tokens[start : start + CHUNK] = chunk
    kept = [np.bincount(places, count, len(vocabulary)) for count in (train, validation)]
    # A token that was never seen counts as half a token, so that its loss is finite.
    frequencies = np.maximum(kept[0], 0.5)
    surprise = -np.log(frequencies / frequencies.sum())
    return {
        "vocabulary": vocabulary,
        "train_tokens": train_tokens,
        "validation_tokens": len(tokens) - train_tokens,
        "content": content.hexdigest(),
        "constant_log_loss": float(kept[1] @ surprise / max(1, kept[1].sum())),
    }


def _counts(tokens: Tokens, size: int) -> Counts:
    counts = np.zeros(size, np.int64)
    for start in range(0, len(tokens), CHUNK):
        counts += np.bincount(tokens[start : start + CHUNK], minlength=size)
    return counts


def _vocabulary(
    names: Sequence[str], train: Counts, validation: Counts, limit: int | None
) -> tuple[list[str], Tokens]:
    """Returns the tokens of the training part, the most frequent first, and the place of every name.

    `<unk>` is the first token if the text contains it, or if a token is not in the vocabulary. Such a
    token gets the place of `<unk>`.
    """
    seen = np.flatnonzero(train).tolist()
    kept = sorted(seen, key=lambda i: (names[i] != UNKNOWN, -train[i], names[i]))
    has_unknown = bool(kept) and names[kept[0]] == UNKNOWN
    cut = limit is not None and len(kept) > limit
    add_unknown = not has_unknown and (cut or bool(validation[train == 0].any()))
    if limit is not None:
        kept = kept[: limit - add_unknown]
    places = np.zeros(len(names), np.int32)
    places[kept] = np.arange(len(kept)) + add_unknown
    return [UNKNOWN] * add_unknown + [names[i] for i in kept], places
