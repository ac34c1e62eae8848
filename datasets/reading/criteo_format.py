"""Rows of the Criteo Display Advertising Challenge: text to numbers, and numbers to model input.

A row is tab-separated: a label (0 or 1), 13 integers I1..I13 and 26 categorical values C1..C26 of
eight hexadecimal digits. A blank field is missing, which is neither zero nor any value.

Text is parsed in one compiled pass (`criteo_scan`), which only finds out *whether* a block of rows is
well formed; `find_faults` then says what is not.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.datasets.reading.click_source import Fault, shown

INTEGERS = 13
CATEGORIES = 26
COLUMNS = 1 + INTEGERS + CATEGORIES
FIELD_NAMES = (
    "label",
    *(f"I{i}" for i in range(1, INTEGERS + 1)),
    *(f"C{i}" for i in range(1, CATEGORIES + 1)),
)
ENCODING_VERSION = 1  # raise it when `encode` gives other numbers for the same rows

MAX_DIGITS = 18  # every integer of 18 digits fits int64
_INTEGER = rb"-?[0-9]{1,%d}" % MAX_DIGITS
_CATEGORY = rb"[0-9A-Fa-f]{8}"
_ROW = re.compile(
    rb"[01](?:\t(?:%b)?){%d}(?:\t(?:%b)?){%d}" % (_INTEGER, INTEGERS, _CATEGORY, CATEGORIES)
)
_FIELD_RULES = (
    (re.compile(rb"[01]"), "0 or 1"),
    *((re.compile(rb"(?:%b)?" % _INTEGER), f"an integer of up to {MAX_DIGITS} digits"),) * INTEGERS,
    *((re.compile(rb"(?:%b)?" % _CATEGORY), "eight hexadecimal digits"),) * CATEGORIES,
)


class MalformedRowError(ValueError):
    """Some row of a block breaks the format; `find_faults` tells which and how."""


class ClickRows(NamedTuple):
    """n rows as numbers. A missing number is 0 in its array and True in the mask beside it."""

    label: NDArray[np.uint8]  # [n]
    integers: NDArray[np.int64]  # [n, 13]
    integers_missing: NDArray[np.bool_]  # [n, 13]
    categories: NDArray[np.uint32]  # [n, 26]
    categories_missing: NDArray[np.bool_]  # [n, 26]

    def head(self, rows: int) -> "ClickRows":
        """The first `rows` rows."""
        return ClickRows._make(array[:rows] for array in self)


def parse(text: bytes) -> ClickRows:
    """Parse whole lines, each ended by a newline.

    Raises:
        MalformedRowError: some line breaks the format.
    """
    # Imported here: compiled code is for whoever reads, not for the ranks.
    from paceline.datasets.reading.criteo_scan import scan

    n = text.count(b"\n")
    rows = ClickRows(
        np.empty(n, np.uint8),
        np.empty((n, INTEGERS), np.int64),
        np.empty((n, INTEGERS), np.bool_),
        np.empty((n, CATEGORIES), np.uint32),
        np.empty((n, CATEGORIES), np.bool_),
    )
    if not scan(np.frombuffer(text, np.uint8), *rows, MAX_DIGITS):
        raise MalformedRowError
    return rows


def find_faults(lines: list[bytes]) -> Iterator[Fault]:
    """Say what is wrong with each line that breaks the format: slow, exact, in order."""
    for number, line in enumerate(lines):
        if not _ROW.fullmatch(line):
            yield Fault(number, _reason(line))


def encode(rows: ClickRows, hash_size: int) -> NDArray[np.int32]:
    """Turn rows into model input, int32 [n, 40]: label, float bits of 13 integers, 26 buckets."""
    numbers = np.where(rows.integers_missing, np.nan, rows.integers)
    missing = rows.categories_missing
    return encode_columns(rows.label, numbers, rows.categories, missing, hash_size)


def encode_columns(
    label: NDArray[Any],
    numbers: NDArray[np.float64],
    categories: NDArray[np.uint32],
    missing: NDArray[np.bool_],
    hash_size: int,
) -> NDArray[np.int32]:
    """Turn columns into model input, int32 [n, 1 + I + C]: label, float bits of numbers, buckets.

    A number x becomes sign(x) log(1 + |x|) as float32, NaN where missing. A categorical value
    becomes a bucket in 1..hash_size-1, hashed together with its field; 0 where missing.

    Args:
        label: [n], 0 or 1.
        numbers: [n, I], NaN where missing.
        categories: [n, C].
        missing: [n, C], whether a category is.
        hash_size: buckets of a categorical field.
    """
    first = 1 + numbers.shape[1]
    encoded = np.empty((len(label), first + categories.shape[1]), np.int32)
    encoded[:, 0] = label
    dense = encoded[:, 1:first].view(np.float32)
    dense[:] = np.copysign(np.log1p(np.abs(numbers)), numbers)
    buckets = 1 + mix(categories) % np.uint32(hash_size - 1)
    np.multiply(buckets, ~missing, out=encoded[:, first:], casting="unsafe")
    return encoded


def mix(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Scatter [n, fields] values over 32 bits, differently in each column; one to one in a column.

    The two-round multiply-and-shift finaliser is MurmurHash3's (Appleby, 2011).
    """
    fields = np.arange(1, values.shape[1] + 1, dtype=np.uint32)
    mixed = values ^ (fields * np.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def to_text(rows: ClickRows) -> bytes:
    """Write rows in the challenge's format: the inverse of `parse`."""
    hexadecimal = rows.categories.astype(">u4").tobytes().hex()
    categories = np.array(
        [hexadecimal[i : i + 8] for i in range(0, len(hexadecimal), 8)], object
    ).reshape(-1, CATEGORIES)
    categories[rows.categories_missing] = ""
    integers = np.array([str(x) for x in rows.integers.ravel().tolist()], object)
    integers = integers.reshape(-1, INTEGERS)
    integers[rows.integers_missing] = ""
    labels = map(str, rows.label.tolist())
    lines = zip(labels, integers.tolist(), categories.tolist(), strict=True)
    return "".join("\t".join((y, *i, *c)) + "\n" for y, i, c in lines).encode()


def _reason(line: bytes) -> str:
    fields = line.split(b"\t")
    if len(fields) != COLUMNS:
        hint = " (a row without its label?)" if len(fields) == COLUMNS - 1 else ""
        if len(fields) == 1 and line.count(b",") > 1:
            hint = " (columns with commas and a header are read by click_table:ClickTable)"
        return f"{shown(line)} has {len(fields)} tab-separated fields, not {COLUMNS}{hint}"
    return next(
        f"field {name}: {shown(field)} is not {expected}"
        for name, field, (pattern, expected) in zip(FIELD_NAMES, fields, _FIELD_RULES, strict=True)
        if not pattern.fullmatch(field)
    )
