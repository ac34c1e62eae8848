"""Files in Criteo's format: read in blocks, encoded by a pool of threads."""

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

BLOCK_BYTES = 1 << 18  # parsed at once: its arrays fit a core's second-level cache
LONGEST_LINE = 1 << 20  # bytes; a longer one is no row and may be taken apart
BLOCKS_AHEAD = 4


class CriteoFiles(ClickFiles):
    """Rows of files in the challenge's format.

    Args:
        hash_size: buckets of a categorical field.
        path: of a file, or of a folder of them.
        fractions: to validate on, where no file is for that, and to test on.
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
