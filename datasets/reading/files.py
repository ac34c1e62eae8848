"""Opens and sorts files of raw data and detects changes. Every error is one line."""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from paceline.datasets.reading.cache import DataError, explained


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """Opens `file` for reading bytes. It is unpacked if its name ends in `.gz`.

    Raises:
        DataError: the file cannot be read or is not a complete gzip file. This is raised inside the
            block, too.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file} is not a whole gzip file: {error}; fetch it again") from error
    except OSError as error:
        problem = f"cannot read {file}: {error.strerror}"
        raise DataError(f"{problem}; check that it is a file you may read") from error


def ordered(files: Sequence[Path]) -> list[Path]:
    """Returns `files` in natural order, in which day_9 comes before day_10.

    Raises:
        DataError: a file exists twice, plain and as `.gz`.
    """
    for file in files:
        if file.with_name(f"{file.name}.gz") in files:
            raise DataError(f"{file} is there twice, plain and as .gz; remove one of them")
    return sorted(files, key=_natural_order)


def _natural_order(file: Path) -> list[str]:
    return [part.zfill(20) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def states(files: Sequence[Path]) -> list[list[str | int]]:
    """Returns the path, size, times and inode of each file.

    They change when a file changes and need no reading, so they are used instead of its content.
    """
    with explained(f"cannot read {files[0].parent}", "check that its files stay in place"):
        return [
            [str(file.resolve()), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]
            for file, s in ((file, file.stat()) for file in files)
        ]


def check(name: str, value: object, valid: bool, expected: str) -> None:
    """Raises `DataError` unless the argument `name` of a data module is `valid`."""
    if not valid:
        raise DataError(f"{name} is {value!r}; it must be {expected}")
