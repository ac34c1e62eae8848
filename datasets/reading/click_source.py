"""The base class of the sources of click rows, and the cache entry of a source."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from math import log, log1p
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.datasets.reading import cache

Encoded = NDArray[np.int32]  # [n, 1 + integers + categories]: label, float bits, buckets


class Fault(NamedTuple):
    """What is wrong with one row."""

    line: int  # the first line of the row within the block or file that was read, counted from 0
    reason: str


def shown(value: bytes, limit: int = 40) -> str:
    """Returns a value as an error message quotes it: printable, in one line, cut to `limit` bytes."""
    quoted = ascii(value[:limit])[1:]  # without the b of bytes
    return quoted + "..." * (len(value) > limit)


class ClickSource(ABC):
    """A source of rows. It reads them and finds their cache entry again.

    Attributes:
        owner: a file name that is unique to the source and its settings.
        synthetic: whether the rows are drawn at random.
        integers: the number of integer fields of a row.
        categories: the number of categorical fields of a row.
        hash_size: the number of buckets of a categorical field, including the one for missing values.
        encoding: a JSON-able description of how rows become numbers.
    """

    owner: str
    synthetic: bool
    integers: int
    categories: int
    hash_size: int
    encoding: list[Any]

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the rows in a record."""

    @abstractmethod
    def known_key(self, cache_dir: Path) -> str | None:
        """Returns the key of the cache entry, or None if it is unknown before the source is read."""

    @abstractmethod
    def blocks(self, facts: dict[str, Any]) -> Iterator[Encoded]:
        """Yields the encoded rows from the start. After the last block, `facts` is complete."""

    @abstractmethod
    def remember(self, cache_dir: Path, facts: dict[str, Any]) -> str:
        """Returns the key of the rows with these facts, and stores it for `known_key`."""

    @abstractmethod
    def split(self, rows: int, facts: dict[str, Any]) -> tuple[int, int]:
        """Returns where the training rows end and where the validation rows end, of `rows` rows.

        The remaining rows are the test part.

        Raises:
            DataError: there are too few rows.
        """


class Prepared(NamedTuple):
    """A cache entry, and where its training rows and then its validation rows end."""

    entry: Path
    about: dict[str, Any]
    train_stop: int
    validation_stop: int

    @property
    def rows(self) -> int:
        return int(self.about["clicks"][-1][0])

    @property
    def rows_file(self) -> Path:
        return self.entry / cache.ROWS_FILE

    def clicks_before(self, row: int) -> int:
        """Returns the number of clicks among the first `row` rows.

        It uses the running counts of the blocks and reads only the few rows after them.
        """
        counts = self.about["clicks"]
        start, clicks = counts[bisect_right(counts, row, key=lambda count: count[0]) - 1]
        labels = np.load(self.rows_file, mmap_mode="r", allow_pickle=False)[start:row, 0]
        return int(clicks + labels.sum())

    def constant_log_loss(self) -> float:
        """Returns the log loss of always predicting the click rate of the training rows.

        It is in nats per example, on the validation rows.
        """
        clicks, both = self.clicks_before(self.train_stop), self.clicks_before(self.validation_stop)
        # At least half an example away from 0 and 1, so that a log without clicks has a finite loss.
        rate = min(max(clicks, 0.5), self.train_stop - 0.5) / self.train_stop
        validation_rate = (both - clicks) / (self.validation_stop - self.train_stop)
        return -(validation_rate * log(rate) + (1 - validation_rate) * log1p(-rate))


def prepare(source: ClickSource, cache_dir: Path) -> Prepared:
    """Returns the cache entry of `source`. It is built if it does not exist.

    Raises:
        DataError: the rows cannot be used, or the cache cannot be written.
    """

    def find() -> Path | None:
        key = source.known_key(cache_dir)
        return cache_dir / key if key and (cache_dir / key).exists() else None

    def build(partial: Path) -> str:
        facts: dict[str, Any] = {}
        clicks = [(0, 0)]  # running counts of rows and clicks
        blocks = _counted(source.blocks(facts), clicks)
        columns = 1 + source.integers + source.categories
        rows = cache.write_rows(partial / cache.ROWS_FILE, blocks, columns)
        source.split(rows, facts)  # raises DataError if there are too few rows
        cache.write_json(partial / cache.ABOUT_FILE, {**facts, "clicks": clicks})
        return source.remember(cache_dir, facts)

    entry = cache.find_or_build(cache_dir, source.owner, find, build)
    about = cache.read_json(entry / cache.ABOUT_FILE) or {}
    return Prepared(entry, about, *source.split(about["clicks"][-1][0], about))


def _counted(blocks: Iterable[Encoded], clicks: list[tuple[int, int]]) -> Iterator[Encoded]:
    for block in blocks:
        clicks.append((clicks[-1][0] + len(block), clicks[-1][1] + int(block[:, 0].sum())))
        yield block
