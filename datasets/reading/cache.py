"""Caches of prepared rows: built once however many processes ask, whole or not there at all.

An entry is a folder `KEY/` with `rows.npy` and `about.json`. It is written under another name and
moved into place by one rename, under a lock, so nobody ever sees half an entry.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.lib import format as npy
from numpy.typing import NDArray

ROWS_FILE = "rows.npy"
ABOUT_FILE = "about.json"


class DataError(ValueError):
    """Data that cannot be used. Its message is one line: what is wrong, where, what to do."""


@contextmanager
def explained(problem: str, advice: str) -> Iterator[None]:
    """Turn an operating system's error into a `DataError` of one line."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{problem}: {error.strerror or error}; {advice}") from error


def digest(value: object) -> str:
    """SHA-256 of a JSON-able value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in `file`, or None where there is no such file."""
    return dict(json.loads(file.read_bytes())) if file.exists() else None


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write `value` to `file` in one step. Callers that share a file share a lock."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(json.dumps(value, sort_keys=True))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_rows(file: Path, blocks: Iterable[NDArray[np.int32]], columns: int) -> int:
    """Write blocks of rows, int32 [n, columns], as one `.npy` file as they come; return their sum.

    The header is written again at the end, when the number of rows is known; NumPy leaves room in
    it for that.
    """
    rows = 0
    with file.open("wb") as stream:
        _write_header(stream, 0, columns)
        for block in blocks:
            stream.write(np.ascontiguousarray(block).data)
            rows += len(block)
        stream.seek(0)
        _write_header(stream, rows, columns)
    return rows


def _write_header(stream: BinaryIO, rows: int, columns: int) -> None:
    npy.write_array_header_1_0(
        stream, {"descr": "<i4", "fortran_order": False, "shape": (rows, columns)}
    )


def find_or_build(
    cache: Path, owner: str, find: Callable[[], Path | None], build: Callable[[Path], str]
) -> Path:
    """Return the entry that `find` finds; where there is none, build it, one process at a time.

    Args:
        cache: folder of entries, made if missing.
        owner: file name, unique to what is built, of the lock and of the unfinished entry.
        find: returns the entry, or None.
        build: fills the folder it is given and returns the entry's key.

    Raises:
        DataError: the cache cannot be written, or `build` says so; nothing unfinished is left.
    """
    found = find()
    if found is not None:
        return found
    with explained(f"cannot write the cache {cache}", "free space there or set another cache_dir"):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{owner}.lock"):
            return find() or _build(cache, cache / f"{owner}.partial", build)


def _build(cache: Path, partial: Path, build: Callable[[Path], str]) -> Path:
    shutil.rmtree(partial, ignore_errors=True)  # a killed process may have left one
    partial.mkdir()
    try:
        entry = cache / build(partial)
        if not entry.exists():  # the same rows may have come from another place
            partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return entry
