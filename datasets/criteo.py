"""Criteo click prediction: the challenge's rows from disk, or the embedded synthetic click log.

`prepare_data` turns either into a cache that every rank maps into memory; see
docs/datasets/criteo.md for the format, the errors and the measured figures.
"""

import hashlib
import logging
import os
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import log, log1p
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from paceline.datasets import click_log
from paceline.datasets.batches import collate
from paceline.datasets.reading import cache
from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.criteo_format import (
    COLUMNS,
    ENCODING_VERSION,
    INTEGERS,
    Fault,
    MalformedRowError,
    encode,
    find_faults,
    parse,
)
from paceline.datasets.reading.files import check, opened, ordered, states

Encoded = NDArray[np.int32]  # [n, 40]
Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 18  # parsed at once: its arrays fit a core's second-level cache
LONGEST_LINE = 1 << 20  # bytes; a longer one is no row and may be taken apart
BLOCKS_AHEAD = 4
FAULTS_SHOWN = 3
DESCRIBED = ("skipped_rows", "first_skipped", "bayes_log_loss")
DAY_FILES = re.compile(r"(day_.*|.*\.tsv|.*\.txt)(\.gz)?")


class ClickBatch(NamedTuple):
    """B examples."""

    label: torch.Tensor  # float32 [B], 0 or 1
    dense: torch.Tensor  # float32 [B, 13], sign(x) log(1 + |x|), NaN where missing
    categories: torch.Tensor  # int32 [B, 26], buckets 1..hash_size-1, 0 where missing


class ClickDataset(Dataset[ClickBatch]):
    """Rows `start` to `stop` of a cache, mapped into memory. Pickles as its place, not its rows."""

    def __init__(self, file: Path, start: int, stop: int) -> None:
        self._place = (file, start, stop)
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        self._rows: Encoded = np.asarray(mapped)[start:stop]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ClickBatch:
        """One example, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> ClickBatch:
        """The examples at `indices` as one batch."""
        rows = torch.from_numpy(self._rows.take(indices, axis=0))
        return ClickBatch(
            label=rows[:, 0].float(),
            dense=rows[:, 1 : 1 + INTEGERS].view(torch.float32),
            categories=rows[:, 1 + INTEGERS :],
        )

    def __reduce__(self) -> tuple[type["ClickDataset"], tuple[Path, int, int]]:
        return ClickDataset, self._place


class Criteo(LightningDataModule):
    """Click prediction with 13 dense and 26 categorical fields.

    Args:
        path: a file in the challenge's tab-separated format, plain or `.gz`, or a folder of them
            (`day_*`, `*.tsv`, `*.txt`); None is the synthetic click log.
        train_rows: rows of the synthetic log to train on.
        validation_rows: rows of the synthetic log to validate on.
        validation_fraction: last fraction of the rows at `path`, in time order, to validate on.
        hash_size: buckets a categorical field, the one for missing values included.
        on_bad_rows: end the run at the first malformed row, or skip, count and report such rows.
        synthetic_seed: of the synthetic log.
        cache_dir: folder for the prepared rows.

    Raises:
        DataError: an argument is out of range, or the data cannot be used.
    """

    provides = ("hash_size",)  # what a model has to know of the data
    batch_size = 256  # of the loaders below; a benchmark brings its own sampler

    train_dataset: ClickDataset
    validation_dataset: ClickDataset

    def __init__(
        self,
        path: str | None = None,
        train_rows: int = 1_000_000,
        validation_rows: int = 100_000,
        validation_fraction: float = 0.1,
        hash_size: int = 4096,
        on_bad_rows: Literal["raise", "skip"] = "raise",
        synthetic_seed: int = 0,
        cache_dir: str = ".cache/criteo",
    ) -> None:
        super().__init__()
        check("train_rows", train_rows, train_rows >= 1, "at least 1")
        check("validation_rows", validation_rows, validation_rows >= 1, "at least 1")
        check(
            "validation_fraction", validation_fraction, 0 < validation_fraction < 1, "within (0, 1)"
        )
        check("hash_size", hash_size, 2 <= hash_size <= 2**31, "from 2 to 2^31")
        check("on_bad_rows", on_bad_rows, on_bad_rows in ("raise", "skip"), "raise or skip")
        check("synthetic_seed", synthetic_seed, synthetic_seed >= 0, "at least 0")
        self.hash_size = hash_size
        self._cache = Path(cache_dir).expanduser()
        self._log: _Log = (
            _SyntheticLog(hash_size, synthetic_seed, train_rows, validation_rows)
            if path is None
            else _TextLog(hash_size, Path(path).expanduser(), validation_fraction, on_bad_rows)
        )
        self._prepared: _Prepared | None = None

    def prepare_data(self) -> None:
        """Build the cache if it is not there. Any number of processes may call this at once."""
        self._prepared = _prepare(self._log, self._cache)
        if skipped := self._prepared.about["skipped_rows"]:
            first = self._prepared.about["first_skipped"]
            logger.warning("%s: skipped %d malformed rows: %s", self._log.name, skipped, first)

    def setup(self, stage: str | None = None) -> None:
        """Map the cache into memory; needs `prepare_data` to have run on this machine."""
        if self._prepared is None:
            self.prepare_data()
        prepared = self._ready
        self.train_dataset = ClickDataset(prepared.rows_file, 0, prepared.train_rows)
        self.validation_dataset = ClickDataset(
            prepared.rows_file, prepared.train_rows, prepared.rows
        )

    def train_dataloader(self) -> DataLoader[ClickBatch]:
        """Shuffled batches of `batch_size`."""
        return self._loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[ClickBatch]:
        """Batches of `batch_size` in the order of the log."""
        return self._loader(self.validation_dataset, shuffle=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of the rows, their encoding and their split."""
        prepared = self._ready
        return cache.digest(
            {
                "content": prepared.about["content"],
                "encoding": [ENCODING_VERSION, self._log.hash_size],
                "split": [prepared.train_rows, prepared.rows],
            }
        )

    @property
    def description(self) -> dict[str, str | int | float]:
        """Facts for a trial's record. Log losses are nats an example, of the validation rows.

        `constant_log_loss` is that of always predicting the training rows' click rate;
        `bayes_log_loss`, of the synthetic log only, that of the probabilities that drew the labels.
        """
        prepared = self._ready
        facts = {k: v for k, v in prepared.about.items() if k in DESCRIBED}
        return {
            "name": self._log.name,
            "synthetic": self._log.synthetic,
            "train_rows": prepared.train_rows,
            "validation_rows": prepared.rows - prepared.train_rows,
            "click_rate": prepared.clicks_before(prepared.rows) / prepared.rows,
            "constant_log_loss": prepared.constant_log_loss(),
            **facts,
        }

    @property
    def _ready(self) -> "_Prepared":
        if self._prepared is None:
            raise RuntimeError("call prepare_data or setup first")
        return self._prepared

    def _loader(self, dataset: ClickDataset, shuffle: bool) -> DataLoader[ClickBatch]:
        return DataLoader(dataset, self.batch_size, shuffle=shuffle, collate_fn=collate)


class _Log(ABC):
    """A source of rows: how to read it, and how to know it again."""

    owner: str  # file name, unique to the source and its settings
    synthetic: bool

    def __init__(self, hash_size: int) -> None:
        self.hash_size = hash_size

    @property
    @abstractmethod
    def name(self) -> str:
        """What a record calls the rows."""

    @abstractmethod
    def known_key(self, cache_dir: Path) -> str | None:
        """The key of this log's cache entry, as far as it can be told without reading the log."""

    @abstractmethod
    def blocks(self, facts: dict[str, Any]) -> Iterator[Encoded]:
        """Read the log from its start, encoded; after the last block, `facts` is filled in."""

    @abstractmethod
    def remember(self, cache_dir: Path, facts: dict[str, Any]) -> str:
        """Return the key of the rows that gave these facts, so that `known_key` will know it."""

    @abstractmethod
    def train_rows(self, rows: int) -> int:
        """How many of `rows` rows, from the start, train. Raises `DataError` if none can."""


class _Prepared(NamedTuple):
    """A cache entry and its split."""

    entry: Path
    about: dict[str, Any]
    train_rows: int

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
        clicks = self.clicks_before(self.train_rows)
        # Half an example away from certainty, so that a log without clicks has a finite loss.
        rate = min(max(clicks, 0.5), self.train_rows - 0.5) / self.train_rows
        validation_rows = self.rows - self.train_rows
        validation_rate = (self.clicks_before(self.rows) - clicks) / validation_rows
        return -(validation_rate * log(rate) + (1 - validation_rate) * log1p(-rate))


def _prepare(log: _Log, cache_dir: Path) -> _Prepared:
    def find() -> Path | None:
        key = log.known_key(cache_dir)
        return cache_dir / key if key and (cache_dir / key).exists() else None

    def build(partial: Path) -> str:
        facts: dict[str, Any] = {}
        clicks = [(0, 0)]  # running counts of rows and clicks
        blocks = _counted(log.blocks(facts), clicks)
        rows = cache.write_rows(partial / cache.ROWS_FILE, blocks, COLUMNS)
        log.train_rows(rows)  # may say that they are too few
        cache.write_json(partial / cache.ABOUT_FILE, {**facts, "clicks": clicks})
        return log.remember(cache_dir, facts)

    entry = cache.find_or_build(cache_dir, log.owner, find, build)
    about = cache.read_json(entry / cache.ABOUT_FILE) or {}
    return _Prepared(entry, about, log.train_rows(about["clicks"][-1][0]))


def _counted(blocks: Iterable[Encoded], clicks: list[tuple[int, int]]) -> Iterator[Encoded]:
    for block in blocks:
        clicks.append((clicks[-1][0] + len(block), clicks[-1][1] + int(block[:, 0].sum())))
        yield block


class _SyntheticLog(_Log):
    """Training rows and then validation rows of the synthetic click log."""

    name = "synthetic click log"
    synthetic = True

    def __init__(self, hash_size: int, seed: int, train_rows: int, validation_rows: int) -> None:
        super().__init__(hash_size)
        self._seed = seed
        self._train_rows = train_rows
        self._validation_rows = validation_rows
        recipe = [click_log.RECIPE_VERSION, seed, train_rows, validation_rows]
        self.owner = "synthetic-" + cache.digest([recipe, ENCODING_VERSION, hash_size])
        self._key = cache.digest(self.owner)

    def known_key(self, cache_dir: Path) -> str:
        return self._key

    def blocks(self, facts: dict[str, Any]) -> Iterator[Encoded]:
        content = hashlib.blake2b(digest_size=32)
        rows = click_log.ClickLog(self._seed)
        losses = 0.0
        for block in rows.blocks("train", self._train_rows):
            yield self._encode(block, content)
        for block in rows.blocks("validation", self._validation_rows):
            losses += click_log.log_loss(block)
            yield self._encode(block, content)
        facts["content"] = content.hexdigest()
        facts["skipped_rows"] = 0
        facts["bayes_log_loss"] = losses / self._validation_rows

    def remember(self, cache_dir: Path, facts: dict[str, Any]) -> str:
        return self._key

    def train_rows(self, rows: int) -> int:
        return self._train_rows

    def _encode(self, block: click_log.LabelledRows, content: hashlib.blake2b) -> Encoded:
        for array in block.rows:
            content.update(array.tobytes())
        return encode(block.rows, self.hash_size)


class _TextLog(_Log):
    """Rows of files in the challenge's format."""

    synthetic = False

    def __init__(
        self, hash_size: int, path: Path, validation_fraction: float, on_bad_rows: str
    ) -> None:
        super().__init__(hash_size)
        self._path = path
        self._validation_fraction = validation_fraction
        self._on_bad_rows = on_bad_rows
        self.owner = "text-" + cache.digest([str(path.resolve()), hash_size, on_bad_rows])

    @property
    def name(self) -> str:
        return ", ".join(file.name for file in _find_files(self._path))

    def known_key(self, cache_dir: Path) -> str | None:
        # Reading gigabytes to hash them would cost more than the cache saves.
        memo = cache.read_json(self._memo(cache_dir))
        return memo["key"] if memo and memo["files"] == states(_find_files(self._path)) else None

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
