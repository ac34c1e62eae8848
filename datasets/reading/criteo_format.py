"""Converts rows of the Criteo Display Advertising Challenge from text to numbers and to model input.

A row is tab-separated. It has a label (0 or 1), 13 integers I1..I13 and 26 categorical values C1..C26
of eight hexadecimal digits. A blank field means a missing value, which differs from zero and from every
other value.

One compiled pass (`criteo_scan`) parses the text. It only finds out *whether* a block of rows is well
formed. If it is not, `find_faults` says what is wrong.
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
    """A row of a block is malformed. `find_faults` says which row and why."""


class ClickRows(NamedTuple):
    """n rows as numbers. A missing number is 0 in its array and True in the mask beside it."""

    label: NDArray[np.uint8]  # [n]
    integers: NDArray[np.int64]  # [n, 13]
    integers_missing: NDArray[np.bool_]  # [n, 13]
    categories: NDArray[np.uint32]  # [n, 26]
    categories_missing: NDArray[np.bool_]  # [n, 26]

    def head(self, rows: int) -> "ClickRows":
        """Returns the first `rows` rows."""
        return ClickRows._make(array[:rows] for array in self)


def parse(text: bytes) -> ClickRows:
    """Parses whole lines, each with a newline at its end.

    Raises:
        MalformedRowError: a line is malformed.
    """
    # Imported here, because only a process that reads text needs the compiled code. Ranks do not.
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
    """Yields what is wrong with each malformed line, in order. It is exact but slow."""
    for number, line in enumerate(lines):
        if not _ROW.fullmatch(line):
            yield Fault(number, _reason(line))


def encode(rows: ClickRows, hash_size: int) -> NDArray[np.int32]:
    """Converts rows to model input, int32 [n, 40]: label, float bits of 13 integers, 26 buckets."""
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
    """Converts columns to model input, int32 [n, 1 + I + C]: label, float bits of numbers, buckets.

    A number x becomes sign(x) log(1 + |x|) as float32. A missing number becomes NaN. A categorical value
    is hashed together with its field to a bucket in 1..hash_size-1. A missing value gets bucket 0.

    Args:
        label: the labels [n], 0 or 1.
        numbers: the numbers [n, I]. A missing number is NaN.
        categories: the categorical values [n, C].
        missing: [n, C], True if the categorical value is missing.
        hash_size: the number of buckets of a categorical field.
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
    """Hashes values [n, fields] to 32 bits. The hash differs between columns and is one-to-one in each.

    It is the two-round multiply-and-shift finaliser of MurmurHash3 (Appleby, 2011).
    """
    fields = np.arange(1, values.shape[1] + 1, dtype=np.uint32)
    mixed = values ^ (fields * np.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def to_text(rows: ClickRows) -> bytes:
    """Converts rows to text in the challenge's format. It is the inverse of `parse`."""
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
