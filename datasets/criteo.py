"""Criteo click prediction: the challenge's rows from disk, or the embedded synthetic click log.

`prepare_data` turns either into a cache that every rank maps into memory. See docs/datasets/criteo.md
for the format, the errors and the measured figures.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from paceline.datasets import click_log
from paceline.datasets.clicks import Clicks
from paceline.datasets.reading import cache
from paceline.datasets.reading.click_files import checked_fractions
from paceline.datasets.reading.click_source import ClickSource, Encoded
from paceline.datasets.reading.criteo_files import CriteoFiles
from paceline.datasets.reading.criteo_format import CATEGORIES, ENCODING_VERSION, INTEGERS, encode
from paceline.datasets.reading.files import check


class Criteo(Clicks):
    """Click prediction with 13 dense and 26 categorical fields.

    Args:
        path: a file in the challenge's tab-separated format, plain or `.gz`, or a folder of such files
            (`day_*`, `*.tsv`, `*.txt`). With None, the synthetic click log is used.
        train_rows: the number of rows of the synthetic log to train on.
        validation_rows: the number of rows of the synthetic log to validate on.
        validation_fraction: the fraction of the rows at `path` to validate on. They are the last rows,
            in time order, before the test rows. It is not used if the name of a file says that the file
            is for validation.
        hash_size: the number of buckets of a categorical field, including the one for missing values.
        on_bad_rows: `raise` ends the run at the first malformed row. `skip` skips, counts and reports
            such rows.
        synthetic_seed: the seed of the synthetic log.
        cache_dir: the folder for the prepared rows.
        test_fraction: the fraction of the rows at `path` to test on. They are the last rows, after those
            to validate on.
        test_rows: the number of rows of the synthetic log to test on.

    Raises:
        DataError: an argument is out of range, or the data cannot be used.
    """

    provides = ("hash_size",)  # what a model needs to know about the data

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
        test_fraction: float = 0.0,
        test_rows: int = 0,
    ) -> None:
        check("train_rows", train_rows, train_rows >= 1, "at least 1")
        check("validation_rows", validation_rows, validation_rows >= 1, "at least 1")
        check("test_rows", test_rows, test_rows >= 0, "at least 0")
        fractions = checked_fractions(validation_fraction, test_fraction)
        check("hash_size", hash_size, 2 <= hash_size <= 2**31, "from 2 to 2^31")
        check("on_bad_rows", on_bad_rows, on_bad_rows in ("raise", "skip"), "raise or skip")
        check("synthetic_seed", synthetic_seed, synthetic_seed >= 0, "at least 0")
        source = (
            SyntheticLog(hash_size, synthetic_seed, train_rows, validation_rows, test_rows)
            if path is None
            else CriteoFiles(hash_size, Path(path).expanduser(), fractions, on_bad_rows)
        )
        super().__init__(source, cache_dir)


class SyntheticLog(ClickSource):
    """The training rows of the synthetic click log, then its validation rows, then its test rows."""

    name = "synthetic click log"
    synthetic = True
    integers, categories = INTEGERS, CATEGORIES

    def __init__(
        self, hash_size: int, seed: int, train_rows: int, validation_rows: int, test_rows: int
    ) -> None:
        self.hash_size = hash_size
        self.encoding = [ENCODING_VERSION, hash_size]
        self._seed = seed
        self._train_rows = train_rows
        self._validation_rows = validation_rows
        self._test_rows = test_rows
        recipe = [click_log.RECIPE_VERSION, seed, train_rows, validation_rows, test_rows]
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
        for block in rows.blocks("test", self._test_rows):
            yield self._encode(block, content)
        facts["content"] = content.hexdigest()
        facts["skipped_rows"] = 0
        facts["bayes_log_loss"] = losses / self._validation_rows

    def remember(self, cache_dir: Path, facts: dict[str, Any]) -> str:
        return self._key

    def split(self, rows: int, facts: dict[str, Any]) -> tuple[int, int]:
        return self._train_rows, self._train_rows + self._validation_rows

    def _encode(self, block: click_log.LabelledRows, content: hashlib.blake2b) -> Encoded:
        for array in block.rows:
            content.update(array.tobytes())
        return encode(block.rows, self.hash_size)
