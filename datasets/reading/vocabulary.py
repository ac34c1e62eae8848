"""From provisional numbers of tokens to places in a vocabulary, in place and in pieces."""

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
    """Rewrite provisional numbers as places in the vocabulary, and return what is known of them.

    Args:
        tokens: [n] provisional numbers, those to train on first; changed in place.
        train_tokens: how many of them train.
        names: the text of every provisional number.
        limit: tokens of the vocabulary at most, `<unk>` included.
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
    # Half a token for one that was never seen, so that its loss is finite.
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
    """The tokens of the training part, the most frequent first, and the place of every name.

    `<unk>` comes before them all where the text itself has it or a token needs it, which gets its
    place then.
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
