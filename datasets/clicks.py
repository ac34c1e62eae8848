"""Click logs as a data module. The rows are encoded once and mapped into memory.

`Criteo` reads the challenge's format. `ClickTable` reads the columns of any log with a header.
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
    """Rows `start` to `stop` of a cache, mapped into memory. A pickle contains the path, not the rows."""

    def __init__(self, file: Path, integers: int, start: int, stop: int) -> None:
        self._place = (file, integers, start, stop)
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        self._rows: Encoded = np.asarray(mapped)[start:stop]
        self._integers = integers

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ClickBatch:
        """Returns one example as a batch of size 1."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> ClickBatch:
        """Returns the examples at `indices` as one batch."""
        rows = torch.from_numpy(self._rows.take(indices, axis=0))
        return ClickBatch(
            label=rows[:, 0].float(),
            dense=rows[:, 1 : 1 + self._integers].view(torch.float32),
            categories=rows[:, 1 + self._integers :],
        )

    def __reduce__(self) -> tuple[type["ClickDataset"], tuple[Path, int, int, int]]:
        return ClickDataset, self._place


class Clicks(LightningDataModule):
    """Click prediction on the rows of a source.

    Args:
        source: the source of the rows.
        cache_dir: the folder for the prepared rows, relative to `PACELINE_HOME` or the current folder.
    """

    batch_size = 256  # for the loaders below; a benchmark uses its own sampler

    train_dataset: ClickDataset
    validation_dataset: ClickDataset
    test_dataset: ClickDataset | None = None

    def __init__(self, source: ClickSource, cache_dir: str) -> None:
        super().__init__()
        self.hash_size = source.hash_size
        self._log, self._cache = source, home() / Path(cache_dir).expanduser()
        self._prepared: Prepared | None = None

    def prepare_data(self) -> None:
        """Builds the cache if it does not exist. Several processes may call this at the same time.

        Raises:
            DataError: the data cannot be used.
        """
        self._prepared = prepare(self._log, self._cache)
        if skipped := self._prepared.about["skipped_rows"]:
            first = self._prepared.about["first_skipped"]
            logger.warning("%s: skipped %d malformed rows: %s", self._log.name, skipped, first)

    def setup(self, stage: str | None = None) -> None:
        """Maps the cache into memory. If needed, it calls `prepare_data` first."""
        if self._prepared is None:
            self.prepare_data()
        prepared = self._ready
        train, validation = prepared.train_stop, prepared.validation_stop
        self.train_dataset = self._dataset(0, train)
        self.validation_dataset = self._dataset(train, validation)
        if validation < prepared.rows:
            self.test_dataset = self._dataset(validation, prepared.rows)

    def train_dataloader(self) -> DataLoader[ClickBatch]:
        """Returns a loader of shuffled training batches of `batch_size` examples."""
        return self._loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[ClickBatch]:
        """Returns a loader of validation batches of `batch_size` examples, in the order of the log."""
        return self._loader(self.validation_dataset, shuffle=False)

    def test_dataloader(self) -> DataLoader[ClickBatch] | list[Any]:
        """Returns a loader of the test part, or an empty list if there is no test part.

        The test part is used neither for training nor for validation.
        """
        return [] if self.test_dataset is None else self._loader(self.test_dataset, shuffle=False)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the rows, their encoding and their split, in hexadecimal."""
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
        """The facts for a trial's record. Log losses are in nats per example, on the validation rows.

        `constant_log_loss` is the log loss of always predicting the click rate of the training rows.
        `bayes_log_loss` is the log loss of the probabilities that the labels were drawn with. Only the
        synthetic log has it.
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
