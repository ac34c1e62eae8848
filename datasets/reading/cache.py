"""A cache of prepared rows. An entry is built once, even if several processes need it at the same time.

An entry is a folder `KEY/` with `rows.npy`, `about.json` and `seal.json`. The seal has the lengths and
checksums of the other two files. Under a lock, an entry is written under another name, synced to the disk
and moved into place by one rename. So no process ever sees an incomplete entry. Later damage, such as a
disk error, is detected when the entry is opened. The entry is then built again, with a warning.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import zlib
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
SEAL_FILE = "seal.json"
PART_BYTES = 1 << 18  # the bytes under one checksum
SAMPLED_PARTS = 256  # the most parts of a file that are checked when its entry is opened

logger = logging.getLogger(__name__)


class DataError(ValueError):
    """Data that cannot be used. The message is one line that says what is wrong, where, and what to do.

    Unprintable characters, which damaged data and file names may contain, are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


@contextmanager
def explained(problem: str, advice: str) -> Iterator[None]:
    """Turns an error of the operating system into a `DataError` of one line."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{problem}: {error.strerror or error}; {advice}") from error


def digest(value: object) -> str:
    """Returns the SHA-256 of a JSON-able value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(file: Path) -> dict[str, Any] | None:
    """Returns the object in `file`, or None if the file does not exist or is damaged."""
    try:
        value = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Writes `value` to `file` in one step. Callers that share a file must share a lock."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(json.dumps(value, sort_keys=True))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_rows(file: Path, blocks: Iterable[NDArray[np.int32]], columns: int) -> int:
    """Writes blocks of rows, int32 [n, columns], to one `.npy` file and returns the number of rows.

    Each block is written as it arrives. The header is written again at the end, when the number of rows
    is known. NumPy leaves space in the header for that.
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
    """Returns the entry that `find` finds. If there is none, it builds the entry.

    Only one process builds at a time. A damaged entry is built again.

    Args:
        cache: the folder of the entries. It is created if it does not exist.
        owner: the file name of the lock and of the unfinished entry, unique to what is built.
        find: returns the entry, or None.
        build: fills the folder that it is given and returns the key of the entry.

    Raises:
        DataError: the cache cannot be written, or `build` raises it. No unfinished entry is left.
    """
    found = find()
    if found is not None and damage(found) is None:
        return found
    with explained(f"cannot write the cache {cache}", "free space there or set another cache_dir"):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{owner}.lock"):
            found = find()  # another process may have built it in the meantime
            reason = damage(found) if found is not None else None
            if found is not None and reason is None:
                return found
            if reason is not None:
                logger.warning("%s: %s; it is built again", found, reason)
            return _build(cache, cache / f"{owner}.partial", build)


def _build(cache: Path, partial: Path, build: Callable[[Path], str]) -> Path:
    shutil.rmtree(partial, ignore_errors=True)  # a killed process may have left one
    partial.mkdir()
    try:
        entry = cache / build(partial)
        _seal(partial)
        if not entry.exists() or damage(entry) is not None:
            shutil.rmtree(entry, ignore_errors=True)
            partial.rename(entry)
            _sync(cache)
        # Otherwise, the same rows were already cached from another place.
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return entry


def _seal(entry: Path) -> None:
    """Writes the lengths and checksums of an entry's files, and syncs everything to the disk."""
    seal = {}
    for name in (ROWS_FILE, ABOUT_FILE):
        file = entry / name
        sums = [zlib.crc32(part) for part in _parts(file, range(_count(file.stat().st_size)))]
        seal[name] = {"bytes": file.stat().st_size, "crc32": sums}
        _sync(file)
    write_json(entry / SEAL_FILE, seal)
    _sync(entry / SEAL_FILE)
    _sync(entry)


def damage(entry: Path, whole: bool = False) -> str | None:
    """Returns what is wrong with an entry, or None.

    Args:
        entry: the folder of the entry.
        whole: if True, all checksums are compared. If False, at most 256 of each file are compared,
            drawn at random in each call. That covers all of a file of up to 64 MiB.
    """
    try:
        seal = read_json(entry / SEAL_FILE)
        if seal is None:
            return "it has no readable checksums"
        for name in (ROWS_FILE, ABOUT_FILE):
            file, size, sums = entry / name, seal[name]["bytes"], seal[name]["crc32"]
            if file.stat().st_size != size or len(sums) != _count(size):
                return f"{name} has {file.stat().st_size} bytes and not {size}"
            every = range(len(sums))
            drawn = random.SystemRandom().sample(every, min(SAMPLED_PARTS, len(sums)))
            numbers = every if whole else sorted(drawn)
            for number, part in zip(numbers, _parts(file, numbers), strict=True):
                if zlib.crc32(part) != sums[number]:
                    return f"{name} has another checksum from byte {number * PART_BYTES} on"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except (KeyError, TypeError):
        return "it has no readable checksums"
    return None


def damaged(cache: Path) -> dict[Path, str]:
    """Returns what is wrong with each damaged entry of a cache. It reads every entry completely."""
    entries = [file.parent for file in sorted(cache.glob(f"*/{ROWS_FILE}"))]
    found = {e: damage(e, whole=True) for e in entries if e.suffix != ".partial"}
    return {entry: reason for entry, reason in found.items() if reason is not None}


def _count(size: int) -> int:
    return -(-size // PART_BYTES)


def _parts(file: Path, numbers: Iterable[int]) -> Iterator[bytes]:
    with file.open("rb") as stream:
        for number in numbers:
            stream.seek(number * PART_BYTES)
            yield stream.read(PART_BYTES)


def _sync(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
