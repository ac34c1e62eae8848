"""Where rows of clicks come from, and the cache entry that they are prepared into."""

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

    line: int  # 0-based, of its first line within what was read
    reason: str


def shown(value: bytes, limit: int = 40) -> str:
    """A value as an error message quotes it: one line, printable, not long."""
    quoted = ascii(value[:limit])[1:]  # without the b of bytes
    return quoted + "..." * (len(value) > limit)


class ClickSource(ABC):
    """A source of rows: how to read it, and how to know it again.

    Attributes:
        owner: file name, unique to the source and its settings.
        synthetic: whether the rows were drawn.
        integers: integer fields of a row.
        categories: categorical fields of a row.
        hash_size: buckets of a categorical field, the one for missing values included.
        encoding: stands for how rows become numbers.
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
        """What a record calls the rows."""

    @abstractmethod
    def known_key(self, cache_dir: Path) -> str | None:
        """The key of this source's cache entry, as far as it can be told without reading it."""

    @abstractmethod
    def blocks(self, facts: dict[str, Any]) -> Iterator[Encoded]:
        """Read the source from its start, encoded; after the last block, `facts` is filled in."""

    @abstractmethod
    def remember(self, cache_dir: Path, facts: dict[str, Any]) -> str:
        """Return the key of the rows that gave these facts, so that `known_key` will know it."""

    @abstractmethod
    def split(self, rows: int, facts: dict[str, Any]) -> tuple[int, int]:
        """Where, of `rows` rows, those to train on end and those to validate on.

        What is left is the test part. Raises `DataError` if the rows are too few.
        """


class Prepared(NamedTuple):
    """A cache entry and where its rows to train on end, and those to validate on behind them."""

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
        """Clicks among the first `row` rows, from the running counts and the few rows after."""
        counts = self.about["clicks"]
        start, clicks = counts[bisect_right(counts, row, key=lambda count: count[0]) - 1]
        labels = np.load(self.rows_file, mmap_mode="r", allow_pickle=False)[start:row, 0]
        return int(clicks + labels.sum())

    def constant_log_loss(self) -> float:
        """Nats a validation row, of always predicting the training rows' click rate."""
        clicks, both = self.clicks_before(self.train_stop), self.clicks_before(self.validation_stop)
        # Half an example away from certainty, so that a log without clicks has a finite loss.
        rate = min(max(clicks, 0.5), self.train_stop - 0.5) / self.train_stop
        validation_rate = (both - clicks) / (self.validation_stop - self.train_stop)
        return -(validation_rate * log(rate) + (1 - validation_rate) * log1p(-rate))


def prepare(source: ClickSource, cache_dir: Path) -> Prepared:
    """The cache entry of `source`, built if it is not there.

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
        source.split(rows, facts)  # may say that they are too few
        cache.write_json(partial / cache.ABOUT_FILE, {**facts, "clicks": clicks})
        return source.remember(cache_dir, facts)

    entry = cache.find_or_build(cache_dir, source.owner, find, build)
    about = cache.read_json(entry / cache.ABOUT_FILE) or {}
    return Prepared(entry, about, *source.split(about["clicks"][-1][0], about))


def _counted(blocks: Iterable[Encoded], clicks: list[tuple[int, int]]) -> Iterator[Encoded]:
    for block in blocks:
        clicks.append((clicks[-1][0] + len(block), clicks[-1][1] + int(block[:, 0].sum())))
        yield block
