"""Click logs as tables with a header. They are read row by row with `csv`."""

import csv
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.click_files import ClickFiles, Fractions
from paceline.datasets.reading.click_source import Encoded, Fault, shown
from paceline.datasets.reading.criteo_format import encode_columns
from paceline.datasets.reading.files import opened

Records = Iterator[tuple[int, list[str] | str]]  # the line, and its fields or what is wrong

TABLE_VERSION = 1  # raise it when the same rows give other numbers
BLOCK_ROWS = 8192
REMEMBERED = 1 << 20  # the most values of a field whose numbers are cached
MISSING = -1  # the hash of a blank categorical value
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_LABELS = {"0": 0.0, "1": 1.0}


class Columns(NamedTuple):
    """The names of the columns that are read, as in the header of the log."""

    label: str
    integers: list[str]
    categories: list[str]

    @property
    def names(self) -> list[str]:
        return [self.label, *self.integers, *self.categories]


class ClickTables(ClickFiles):
    """The rows of one or more files with a header.

    Args:
        hash_size: the number of buckets of a categorical field.
        path: the path of a file, or of a folder of files.
        columns: the columns to read.
        separator: the character between two fields.
        fractions: the fractions to validate on and to test on. The first is used only if no file is for
            validation.
        on_bad_rows: `raise` or `skip`.
    """

    wanted = (
        "name a file of comma-separated columns with a header, or a folder of them, with --data"
    )

    def __init__(
        self,
        hash_size: int,
        path: Path,
        columns: Columns,
        separator: str,
        fractions: Fractions,
        on_bad_rows: str,
    ) -> None:
        self.hash_size, self._columns, self._separator = hash_size, columns, separator
        self.integers, self.categories = len(columns.integers), len(columns.categories)
        self.encoding = ["table", TABLE_VERSION, hash_size, self.integers, self.categories]
        recipe = [self.encoding, *columns, separator]
        super().__init__(path, fractions, on_bad_rows, recipe)
        self._readers = [
            _Remembered(reader)
            for reader, count in (
                (_label, 1),
                (_number, self.integers),
                (_hash, self.categories),
            )
            for _ in range(count)
        ]

    def read(self, file: Path, content: "hashlib.blake2b") -> Iterator[tuple[Encoded, list[Fault]]]:
        with opened(file) as stream:
            # A byte that is not UTF-8 is kept, as part of a value.
            text = TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
            records = self._records(file, text)
            _, header = next(records, (0, "it is empty"))
            places = self._places(file, header)
            while block := list(islice(records, BLOCK_ROWS)):
                yield self._rows(block, len(header), places, content)

    def _records(self, file: Path, text: TextIOWrapper) -> Records:
        reader = csv.reader(text, delimiter=self._separator, strict=True)
        while True:
            line = reader.line_num
            try:
                yield line, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if reader.line_num > line + 1:  # the number of rows in these lines is unknown
                    raise DataError(
                        f"{file}, line {line + 1}: {error}, at line {reader.line_num}; a quote is"
                        " opened there or earlier and not closed: correct it"
                    ) from error
                yield line, str(error)

    def _places(self, file: Path, header: list[str] | str) -> list[int]:
        """Returns the places of the columns in a row."""
        if isinstance(header, str):
            raise DataError(f"{file}: its header cannot be read: {header}; {self.wanted}")
        names = [name.strip() for name in header]
        for name in self._columns.names:
            if names.count(name) != 1:
                number = "two columns" if name in names else "no column"
                has = shown(", ".join(names).encode(errors="surrogateescape"), 200)
                raise DataError(
                    f"{file} has {number} {name!r} in its header, {has}; name the columns with"
                    " workload.data.label, integers and categories"
                )
        return [names.index(name) for name in self._columns.names]

    def _rows(
        self,
        block: list[tuple[int, list[str] | str]],
        width: int,
        places: list[int],
        content: "hashlib.blake2b",
    ) -> tuple[Encoded, list[Fault]]:
        whole = [(line, fields) for line, fields in block if _is_row(fields, width)]
        columns = list(zip(*(fields for _, fields in whole), strict=True)) or [()] * width
        values = np.empty((len(whole), len(places)))
        for column, (place, reader) in enumerate(zip(places, self._readers, strict=True)):
            values[:, column] = reader.all(columns[place])
        good = ~np.isinf(values).any(axis=1)
        faults = [
            Fault(line, _reason(fields, width))
            for line, fields in block
            if not _is_row(fields, width)
        ]
        for row in np.flatnonzero(~good):
            line, fields = whole[row]
            column = int(np.isinf(values[row]).argmax())
            field = shown(str(fields[places[column]]).encode(errors="surrogateescape"))
            expected = "a number" if column else "0 or 1"
            name = self._columns.names[column]
            faults.append(Fault(line, f"column {name}: {field} is not {expected}"))
        rows = values[good]
        content.update(rows.tobytes())
        return self._encode(rows), sorted(faults)

    def _encode(self, rows: NDArray[np.float64]) -> Encoded:
        numbers, hashes = np.split(rows[:, 1:], [self.integers], axis=1)
        missing = hashes == MISSING
        categories = np.where(missing, 0, hashes).astype(np.uint32)
        return encode_columns(rows[:, 0], numbers, categories, missing, self.hash_size)


class _Remembered(dict[str, float]):
    """A cache of the results of `read`. Most values occur often."""

    def __init__(self, read: Callable[[str], float]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, value: str) -> float:
        if len(self) >= REMEMBERED:
            self.clear()
        return self.setdefault(value, self._read(value))

    def all(self, values: Sequence[str]) -> NDArray[np.float64]:
        return np.fromiter(map(self.__getitem__, values), np.float64, len(values))


def _label(value: str) -> float:
    return _LABELS.get(value, np.inf)


def _number(value: str) -> float:
    """Returns the number, NaN if the field is blank, or infinity if it is not a number."""
    if not value:
        return np.nan
    return float(value) if _NUMBER.fullmatch(value) else np.inf


def _hash(value: str) -> float:
    """Returns a hash of 32 bits, which float64 represents exactly, or MISSING if the field is blank."""
    return float(zlib.crc32(value.encode(errors="surrogateescape"))) if value else MISSING


def _is_row(fields: list[str] | str, width: int) -> bool:
    return isinstance(fields, list) and len(fields) == width


def _reason(fields: list[str] | str, width: int) -> str:
    return fields if isinstance(fields, str) else f"it has {len(fields)} fields, not {width}"
