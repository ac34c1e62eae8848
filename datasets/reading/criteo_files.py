"""Reads files in Criteo's format in blocks. A pool of threads encodes them."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from paceline.datasets.reading.click_files import ClickFiles, Fractions
from paceline.datasets.reading.click_source import Encoded, Fault
from paceline.datasets.reading.criteo_format import (
    CATEGORIES,
    ENCODING_VERSION,
    INTEGERS,
    MalformedRowError,
    encode,
    find_faults,
    parse,
)
from paceline.datasets.reading.files import opened

Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK_BYTES = 1 << 18  # parsed at once; the arrays of a block fit into the second-level cache
LONGEST_LINE = 1 << 20  # bytes; a longer line is not a row and may be split
BLOCKS_AHEAD = 4


class CriteoFiles(ClickFiles):
    """The rows of one or more files in the challenge's format.

    Args:
        hash_size: the number of buckets of a categorical field.
        path: the path of a file, or of a folder of files.
        fractions: the fractions to validate on and to test on. The first is used only if no file is for
            validation.
        on_bad_rows: `raise` or `skip`.
    """

    integers, categories = INTEGERS, CATEGORIES
    wanted = "name a file of rows in Criteo's format, or a folder of them, with --data"

    def __init__(self, hash_size: int, path: Path, fractions: Fractions, on_bad_rows: str) -> None:
        self.hash_size = hash_size
        self.encoding = [ENCODING_VERSION, hash_size]
        super().__init__(path, fractions, on_bad_rows, self.encoding)

    def read(self, file: Path, content: "hashlib.blake2b") -> Iterator[tuple[Encoded, list[Fault]]]:
        lines = 0
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for encoded, faults in _map_in_order(pool, self._encode, _texts(file, content)):
                yield encoded, [Fault(lines + line, reason) for line, reason in faults]
                lines += len(encoded) + len(faults)

    def _encode(self, text: bytes) -> tuple[Encoded, list[Fault]]:
        try:
            return encode(parse(text), self.hash_size), []
        except MalformedRowError:
            lines = text.split(b"\n")[:-1]
            faults = list(find_faults(lines))
            for fault in reversed(faults):
                del lines[fault.line]
            return encode(parse(b"".join(line + b"\n" for line in lines)), self.hash_size), faults


def _texts(file: Path, content: hashlib.blake2b) -> Iterator[bytes]:
    """Yields blocks of whole lines of about `BLOCK_BYTES`, and updates the hash `content` with them.

    Every line ends with exactly one newline. The same rows therefore have the same hash, even if they are
    gzipped, split over files or from Windows.
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
    """Works like `pool.map`, but takes at most a few items in advance."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > BLOCKS_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
