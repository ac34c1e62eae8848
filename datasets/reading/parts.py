"""Finds out from the name of a file whether it is for training, for validation or for testing.

It knows the common names: `train.txt`, `ptb.valid.txt.gz`, `wiki.test.tokens`, `training.txt`,
`dev.csv`, and the shards of the Hugging Face Hub, `train-00000-of-00002.txt`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.files import ordered

# The names of each part. Error messages use the first one.
WORDS = {
    "train": ("train", "training"),
    "validation": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}
_PART_OF = {word: part for part, words in WORDS.items() for word in words}
_NAME = re.compile(
    rf"(?P<before>(?:.*[._-])?)(?P<word>{'|'.join(sorted(_PART_OF, key=len, reverse=True))})"
    r"(?:[._-]?(?P<number>\d+))?(?:-of-(?P<total>\d+))?",
    re.IGNORECASE,
)


class Parts(NamedTuple):
    """The files of each part, in natural order, and the other files."""

    train: list[Path]
    validation: list[Path]
    test: list[Path]
    others: list[Path]


def by_part(files: Sequence[Path]) -> Parts:
    """Sorts the files of one folder into parts by their names.

    Raises:
        DataError: a part exists twice, or one of its shards is missing.
    """
    parts = Parts([], [], [], [])
    for file in ordered(files):
        matched = _NAME.fullmatch(_stem(file))
        part = _PART_OF[matched["word"].lower()] if matched else "others"
        getattr(parts, part).append(file)
    for part in WORDS:
        _check_shards(part, getattr(parts, part))
    return parts


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").rsplit(".", 1)[0]


def _check_shards(part: str, files: list[Path]) -> None:
    """Checks that several files of a part are the complete numbered shards of one set."""
    matches = [matched for file in files if (matched := _NAME.fullmatch(_stem(file)))]
    sets: dict[tuple[str, ...], Path] = {}
    for file, found in zip(files, matches, strict=True):
        number = "" if found["number"] else file.name  # without a number it is a set of its own
        key = (found["before"], found["word"].lower(), found["total"] or "", number)
        sets.setdefault(key, file)
    if len(sets) > 1:
        first, second, *_ = [file.name for file in sets.values()]
        raise DataError(
            f"{files[0].parent} has two files of split {WORDS[part][0]}, {first} and {second};"
            " leave one of them"
        )
    if not matches or matches[0]["total"] is None:
        return
    total, numbers = int(matches[0]["total"]), {int(found["number"] or 0) for found in matches}
    if len(numbers) != total or max(numbers) - min(numbers) != total - 1:
        raise DataError(
            f"{files[0].parent} has {len(numbers)} of {total} shards of split {WORDS[part][0]},"
            f" {files[0].name} the first; put all of them there"
        )
