"""Click logs as a data module: batches of rows that are encoded once and mapped into memory.

`Criteo` reads the challenge's format and `ClickTable` columns of any log with a header.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from paceline.datasets.batches import collate
from paceline.datasets.reading import cache
from paceline.datasets.reading.click_source import ClickSource, Encoded, Prepared, prepare
from paceline.home import home

logger = logging.getLogger(__name__)

DESCRIBED = ("skipped_rows", "first_skipped", "bayes_log_loss")


class ClickBatch(NamedTuple):
    """B examples with I integers and C categorical values each."""

    label: torch.Tensor  # float32 [B], 0 or 1
    dense: torch.Tensor  # float32 [B, I], sign(x) log(1 + |x|), NaN where missing
    categories: torch.Tensor  # int32 [B, C], buckets 1..hash_size-1, 0 where missing


class ClickDataset(Dataset[ClickBatch]):
    """Rows `start` to `stop` of a cache, mapped into memory. Pickles as its place, not its rows."""

    def __init__(self, file: Path, integers: int, start: int, stop: int) -> None:
        self._place = (file, integers, start, stop)
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        self._rows: Encoded = np.asarray(mapped)[start:stop]
        self._integers = integers

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
            dense=rows[:, 1 : 1 + self._integers].view(torch.float32),
            categories=rows[:, 1 + self._integers :],
        )

    def __reduce__(self) -> tuple[type["ClickDataset"], tuple[Path, int, int, int]]:
        return ClickDataset, self._place


class Clicks(LightningDataModule):
    """Click prediction over the rows of a source.

    Args:
        source: of the rows.
        cache_dir: folder, relative to `PACELINE_HOME` or the current folder, for the prepared rows.
    """

    batch_size = 256  # of the loaders below; a benchmark brings its own sampler

    train_dataset: ClickDataset
    validation_dataset: ClickDataset
    test_dataset: ClickDataset | None = None

    def __init__(self, source: ClickSource, cache_dir: str) -> None:
        super().__init__()
        self.hash_size = source.hash_size
        self._log, self._cache = source, home() / Path(cache_dir).expanduser()
        self._prepared: Prepared | None = None

    def prepare_data(self) -> None:
        """Build the cache if it is not there. Any number of processes may call this at once.

        Raises:
            DataError: the data cannot be used.
        """
        self._prepared = prepare(self._log, self._cache)
        if skipped := self._prepared.about["skipped_rows"]:
            first = self._prepared.about["first_skipped"]
            logger.warning("%s: skipped %d malformed rows: %s", self._log.name, skipped, first)

    def setup(self, stage: str | None = None) -> None:
        """Map the cache into memory; needs `prepare_data` to have run on this machine."""
        if self._prepared is None:
            self.prepare_data()
        prepared = self._ready
        train, validation = prepared.train_stop, prepared.validation_stop
        self.train_dataset = self._dataset(0, train)
        self.validation_dataset = self._dataset(train, validation)
        if validation < prepared.rows:
            self.test_dataset = self._dataset(validation, prepared.rows)

    def train_dataloader(self) -> DataLoader[ClickBatch]:
        """Shuffled batches of `batch_size`."""
        return self._loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[ClickBatch]:
        """Batches of `batch_size` in the order of the log."""
        return self._loader(self.validation_dataset, shuffle=False)

    def test_dataloader(self) -> DataLoader[ClickBatch] | list[Any]:
        """Batches of the test part, which is neither trained nor validated on; none without one."""
        return [] if self.test_dataset is None else self._loader(self.test_dataset, shuffle=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of the rows, their encoding and their split."""
        prepared = self._ready
        parts = [prepared.train_stop, prepared.validation_stop]
        return cache.digest(
            {
                "content": prepared.about["content"],
                "encoding": self._log.encoding,
                "split": parts + [prepared.rows] * (parts[1] < prepared.rows),
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
        if prepared.validation_stop < prepared.rows:
            facts["test_rows"] = prepared.rows - prepared.validation_stop
        return {
            "name": self._log.name,
            "synthetic": self._log.synthetic,
            "train_rows": prepared.train_stop,
            "validation_rows": prepared.validation_stop - prepared.train_stop,
            "click_rate": prepared.clicks_before(prepared.rows) / prepared.rows,
            "constant_log_loss": prepared.constant_log_loss(),
            **facts,
        }

    @property
    def _ready(self) -> Prepared:
        if self._prepared is None:
            raise RuntimeError("call prepare_data or setup first")
        return self._prepared

    def _dataset(self, start: int, stop: int) -> ClickDataset:
        return ClickDataset(self._ready.rows_file, self._log.integers, start, stop)

    def _loader(self, dataset: ClickDataset, shuffle: bool) -> DataLoader[ClickBatch]:
        return DataLoader(dataset, self.batch_size, shuffle=shuffle, collate_fn=collate)
