"""Click logs in files: which files are read, malformed rows, and when a cache entry is still valid."""

import hashlib
import logging
import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from paceline.datasets.reading import cache
from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.click_source import ClickSource, Encoded, Fault
from paceline.datasets.reading.files import check, ordered, states
from paceline.datasets.reading.parts import by_part

FAULTS_SHOWN = 3
LOGS = re.compile(r"(day_\d+|[^.].*\.(tsv|csv|txt))(\.gz)?", re.IGNORECASE)
NO_LOGS = re.compile(r"(readme|licen[cs]e)\b.*", re.IGNORECASE)

logger = logging.getLogger(__name__)


class Found(NamedTuple):
    """The files of a log: those to train on, those to validate on and those that are not read.

    If no file is named for validation, the last part of the rows is used for validation.
    """

    train: list[Path]
    validation: list[Path]
    left_out: list[Path]

    @property
    def files(self) -> list[Path]:
        return [*self.train, *self.validation]


class Fractions(NamedTuple):
    """The fractions of the rows for validation and for testing.

    In time order, the validation rows come after the training rows, and the test rows come last.
    """

    validation: float
    test: float


def checked_fractions(validation: float, test: float) -> Fractions:
    """Checks the fractions and returns them.

    Raises:
        DataError: a fraction is out of range, or no rows are left to train on.
    """
    check("validation_fraction", validation, 0 < validation < 1, "within (0, 1)")
    check("test_fraction", test, 0 <= test < 1 - validation, f"within [0, {1 - validation:g})")
    return Fractions(validation, test)


class ClickFiles(ClickSource):
    """The rows of one or more files.

    Args:
        path: the path of a file, or of a folder of files.
        fractions: the fractions to validate on and to test on. The first is used only if no file is for
            validation.
        on_bad_rows: `raise` or `skip`.
        recipe: a JSON-able description of how a line becomes a row.
    """

    synthetic = False
    wanted: str  # what an error message asks the user to give

    def __init__(
        self, path: Path, fractions: Fractions, on_bad_rows: str, recipe: list[Any]
    ) -> None:
        self._path, self._fractions, self._on_bad_rows = path, fractions, on_bad_rows
        self.owner = "text-" + cache.digest([str(path.resolve()), recipe, on_bad_rows])

    @abstractmethod
    def read(self, file: Path, content: "hashlib.blake2b") -> Iterator[tuple[Encoded, list[Fault]]]:
        """Yields the encoded rows and the malformed rows of one file, block by block.

        It also updates the hash `content` with the rows.
        """

    @property
    def name(self) -> str:
        return ", ".join(file.name for file in self.find().files)

    def known_key(self, cache_dir: Path) -> str | None:
        # It would cost more to read and hash gigabytes than the cache saves.
        memo = cache.read_json(self._memo(cache_dir))
        if memo is None or memo.get("files") != states(self.find().files):
            return None
        return str(memo.get("key"))

    def blocks(self, facts: dict[str, Any]) -> Iterator[Encoded]:
        found = self.find()
        if found.left_out:
            names = ", ".join(file.name for file in found.left_out)
            logger.warning("%s: not read: %s", self._path, names)
        before = states(found.files)
        content = hashlib.blake2b(digest_size=32)
        rows = skipped = 0
        shown: list[str] = []
        for number, file in enumerate(found.files):
            if number == len(found.train):
                facts["train_rows"] = rows
            good = bad = 0
            first: list[str] = []
            for encoded, faults in self.read(file, content):
                bad += len(faults)
                good += len(encoded)
                told = self._accept(file, faults)
                first += told[: 1 - len(first)]
                shown += told[: FAULTS_SHOWN - len(shown)]
                yield encoded
            if bad and not good:
                raise DataError(f"{first[0]}, nor is any other of its lines a row; {self.wanted}")
            rows, skipped = rows + good, skipped + bad
        if states(found.files) != before:
            raise DataError(f"{self._path} changed while it was read; run again when it rests")
        facts |= {
            "content": content.hexdigest(),
            "files": before,
            "skipped_rows": skipped,
            "first_skipped": "; ".join(shown),
        }

    def remember(self, cache_dir: Path, facts: dict[str, Any]) -> str:
        split = [facts["train_rows"]] if "train_rows" in facts else []
        key = cache.digest([facts["content"], *self.encoding, self._on_bad_rows, *split])
        cache.write_json(self._memo(cache_dir), {"files": facts["files"], "key": key})
        return key

    def split(self, rows: int, facts: dict[str, Any]) -> tuple[int, int]:
        tested = max(1, round(rows * self._fractions.test)) if self._fractions.test else 0
        validated = max(1, round(rows * self._fractions.validation))
        train_stop = int(facts.get("train_rows", rows - tested - validated))
        if not 1 <= train_stop < rows - tested:
            raise DataError(
                f"{self._path} holds {rows} rows, too few to train and to validate on; "
                "give more rows"
            )
        return train_stop, rows - tested

    def find(self) -> Found:
        """Returns the file, or the log files of the folder in natural order.

        If a file is named for training, each file is used as its name says, and test files are not read.
        Otherwise, all files together are one log.

        Raises:
            DataError: there are no log files, or their names are ambiguous.
        """
        with explained(f"cannot read {self._path}", self.wanted):
            self._path.stat()
            if not self._path.is_dir():
                return Found([self._path], [], [])
            files = [f for f in self._path.iterdir() if f.is_file() and f.name[0] != "."]
        logs = [f for f in files if LOGS.fullmatch(f.name) and not NO_LOGS.fullmatch(f.name)]
        if not logs:
            raise DataError(
                f"{self._path} has no files day_*, *.tsv, *.csv or *.txt (or .gz of these);"
                f" {self.wanted}"
            )
        parts = by_part(logs)
        train, validation = (parts.train, parts.validation) if parts.train else (ordered(logs), [])
        return Found(train, validation, sorted({*files} - {*train, *validation}))

    def _memo(self, cache_dir: Path) -> Path:
        return cache_dir / f"{self.owner}.json"

    def _accept(self, file: Path, faults: list[Fault]) -> list[str]:
        """Returns a message for each fault. With `on_bad_rows` "raise", the first fault is an error."""
        found = [f"{file}, line {line + 1}: {reason}" for line, reason in faults]
        if found and self._on_bad_rows == "raise":
            odd = self._path.is_dir() and faults[0].line == 0
            also = "move the file away if it holds no rows, " * odd
            raise DataError(
                f"{found[0]}; {also}correct it, or drop such rows with --on-bad-rows skip"
            )
        return found
