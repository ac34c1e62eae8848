"""Rows of Criteo's format from files: found, read in blocks, encoded by a pool of threads."""

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from paceline.datasets.reading import cache
from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.click_source import ClickSource, Encoded
from paceline.datasets.reading.criteo_format import (
    CATEGORIES,
    ENCODING_VERSION,
    INTEGERS,
    Fault,
    MalformedRowError,
    encode,
    find_faults,
    parse,
)
from paceline.datasets.reading.files import opened, ordered, states

Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK_BYTES = 1 << 18  # parsed at once: its arrays fit a core's second-level cache
LONGEST_LINE = 1 << 20  # bytes; a longer one is no row and may be taken apart
BLOCKS_AHEAD = 4
FAULTS_SHOWN = 3
DAY_FILES = re.compile(r"(day_.*|.*\.tsv|.*\.txt)(\.gz)?")


class CriteoFiles(ClickSource):
    """Rows of files in the challenge's format.

    Args:
        hash_size: buckets of a categorical field.
        path: of a file, or of a folder of day files.
        validation_fraction: the last part of the rows, to validate on.
        on_bad_rows: `raise` or `skip`.
    """

    synthetic = False
    integers, categories = INTEGERS, CATEGORIES

    def __init__(
        self, hash_size: int, path: Path, validation_fraction: float, on_bad_rows: str
    ) -> None:
        self.hash_size = hash_size
        self.encoding = [ENCODING_VERSION, hash_size]
        self._path = path
        self._validation_fraction = validation_fraction
        self._on_bad_rows = on_bad_rows
        place = [str(path.resolve()), self.encoding, on_bad_rows]
        self.owner = "text-" + cache.digest(place)

    @property
    def name(self) -> str:
        return ", ".join(file.name for file in _find_files(self._path))

    def known_key(self, cache_dir: Path) -> str | None:
        # Reading gigabytes to hash them would cost more than the cache saves.
        memo = cache.read_json(self._memo(cache_dir))
        if memo is None or memo.get("files") != states(_find_files(self._path)):
            return None
        return str(memo.get("key"))

    def blocks(self, facts: dict[str, Any]) -> Iterator[Encoded]:
        files = _find_files(self._path)
        before = states(files)
        content = hashlib.blake2b(digest_size=32)
        skipped: list[str] = []
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for file in files:
                lines = 0
                for encoded, faults in _map_in_order(pool, self._encode, _texts(file, content)):
                    skipped += self._accept(file, lines, faults)
                    lines += len(encoded) + len(faults)
                    yield encoded
        if states(files) != before:
            raise DataError(f"{self._path} changed while it was read; run again when it rests")
        facts["content"] = content.hexdigest()
        facts["files"] = before
        facts["skipped_rows"] = len(skipped)
        facts["first_skipped"] = "; ".join(skipped[:FAULTS_SHOWN])

    def remember(self, cache_dir: Path, facts: dict[str, Any]) -> str:
        key = cache.digest([facts["content"], ENCODING_VERSION, self.hash_size, self._on_bad_rows])
        cache.write_json(self._memo(cache_dir), {"files": facts["files"], "key": key})
        return key

    def train_rows(self, rows: int) -> int:
        train_rows = rows - max(1, round(rows * self._validation_fraction))
        if train_rows < 1:
            raise DataError(
                f"{self._path} holds {rows} rows, too few to train and to validate on; "
                "give more rows"
            )
        return train_rows

    def _memo(self, cache_dir: Path) -> Path:
        return cache_dir / f"{self.owner}.json"

    def _encode(self, text: bytes) -> tuple[Encoded, list[Fault]]:
        try:
            return encode(parse(text), self.hash_size), []
        except MalformedRowError:
            lines = text.split(b"\n")[:-1]
            faults = list(find_faults(lines))
            for fault in reversed(faults):
                del lines[fault.line]
            return encode(parse(b"".join(line + b"\n" for line in lines)), self.hash_size), faults

    def _accept(self, file: Path, lines_before: int, faults: list[Fault]) -> list[str]:
        """Say where the faults are, unless the first of them ends the run."""
        found = [f"{file}, line {lines_before + line + 1}: {reason}" for line, reason in faults]
        if found and self._on_bad_rows == "raise":
            raise DataError(f"{found[0]}; correct it, or drop such rows with --on-bad-rows skip")
        return found


def _find_files(path: Path) -> list[Path]:
    """The file, or the folder's day files in natural order."""
    advice = "name a file of rows in Criteo's format, or a folder of them, with --data"
    with explained(f"cannot read {path}", advice):
        path.stat()
        if not path.is_dir():
            return [path]
        files = [file for file in path.iterdir() if DAY_FILES.fullmatch(file.name)]
    if not files:
        raise DataError(f"{path} has no files day_*, *.tsv or *.txt (or .gz of these); {advice}")
    return ordered(files)


def _texts(file: Path, content: hashlib.blake2b) -> Iterator[bytes]:
    """Whole lines, about `BLOCK_BYTES` at a time, each ended by one newline, added to `content`.

    So the same rows have the same content, be they gzipped, split over files or from Windows.
    """
    with opened(file) as stream:
        while text := stream.read(BLOCK_BYTES) + stream.readline(LONGEST_LINE):
            if b"\r" in text:
                text = text.replace(b"\r\n", b"\n")
            if not text.endswith(b"\n"):
                text += b"\n"
            content.update(text)
            yield text


def _map_in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Like `pool.map`, but takes only a few items ahead of what was asked for."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > BLOCKS_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
