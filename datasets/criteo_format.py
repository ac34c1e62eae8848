"""Rows of the Criteo Display Advertising Challenge: text to numbers, and numbers to model input.

A row is tab-separated: a label (0 or 1), 13 integers I1..I13 and 26 categorical values C1..C26 of
eight hexadecimal digits. A blank field is missing, which is neither zero nor any value.

Text is parsed with NumPy alone, eight characters at a time (SWAR: SIMD within a register). That
path only finds out *whether* a block of rows is well formed; `find_faults` then says what is not.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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

_WORD = 8  # characters in a uint64
_PADDING = bytes(3 * _WORD)  # room to read the words that end at the first row's fields
_TAB, _NEWLINE, _MINUS, _ZERO = b"\t\n-0"
_DIGIT = bytes(int(chr(c), 16) if chr(c) in "0123456789abcdefABCDEF" else 0xFF for c in range(256))
_EACH_BYTE = 0x0101010101010101
_LAST_BYTES = np.array([2**64 - 2 ** (64 - 8 * n) for n in range(_WORD + 1)], np.uint64)


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


class Fault(NamedTuple):
    """What is wrong with one line."""

    line: int  # 0-based within the text searched
    reason: str


def parse(text: bytes) -> ClickRows:
    """Parse whole lines, each ended by a newline.

    Raises:
        MalformedRowError: some line breaks the format.
    """
    characters = np.frombuffer(text, np.uint8)
    ends = _field_ends(characters)
    starts = np.roll(ends, 1)
    starts += 1
    starts[:1, 0] = 0
    lengths = ends - starts

    label = characters[starts[:, 0]] - np.uint8(_ZERO)
    _require((lengths[:, 0] == 1).all() and (label <= 1).all())

    words = _words(text)
    integer_fields = np.s_[:, 1 : 1 + INTEGERS]
    negative = characters[starts[integer_fields]] == _MINUS
    digits = lengths[integer_fields] - negative
    _require(not (negative & (digits == 0)).any())
    magnitude = _numbers(words, ends[integer_fields], digits, 10)

    category_fields = np.s_[:, 1 + INTEGERS :]
    digits = lengths[category_fields]
    _require(((digits == 0) | (digits == _WORD)).all())
    categories = _numbers(words, ends[category_fields], digits, 16)
    return ClickRows(
        label,
        np.where(negative, -magnitude, magnitude),
        lengths[integer_fields] == 0,
        categories.astype(np.uint32),
        digits == 0,
    )


def find_faults(lines: list[bytes]) -> Iterator[Fault]:
    """Say what is wrong with each line that breaks the format: slow, exact, in order."""
    for number, line in enumerate(lines):
        if not _ROW.fullmatch(line):
            yield Fault(number, _reason(line))


def encode(rows: ClickRows, hash_size: int) -> NDArray[np.int32]:
    """Turn rows into model input, int32 [n, 40]: label, float bits of 13 integers, 26 buckets.

    An integer x becomes sign(x) log(1 + |x|) as float32, NaN where missing. A categorical value
    becomes a bucket in 1..hash_size-1, hashed together with its field; 0 where missing.
    """
    encoded = np.empty((len(rows.label), COLUMNS), np.int32)
    encoded[:, 0] = rows.label
    dense = encoded[:, 1 : 1 + INTEGERS].view(np.float32)
    dense[:] = np.copysign(np.log1p(np.abs(rows.integers)), rows.integers)
    np.copyto(dense, np.nan, where=rows.integers_missing)
    buckets = 1 + mix(rows.categories) % np.uint32(hash_size - 1)
    np.multiply(buckets, ~rows.categories_missing, out=encoded[:, 1 + INTEGERS :], casting="unsafe")
    return encoded


def mix(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Scatter [n, 26] values over 32 bits, differently in each column; one to one in a column.

    The two-round multiply-and-shift finaliser is MurmurHash3's (Appleby, 2011).
    """
    mixed = values ^ (np.arange(1, CATEGORIES + 1, dtype=np.uint32) * np.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def to_text(rows: ClickRows) -> bytes:
    """Write rows in the challenge's format: the inverse of `parse`."""
    hexadecimal = rows.categories.astype(">u4").tobytes().hex()
    categories = np.array(
        [hexadecimal[i : i + _WORD] for i in range(0, len(hexadecimal), _WORD)], object
    ).reshape(-1, CATEGORIES)
    categories[rows.categories_missing] = ""
    integers = np.array([str(x) for x in rows.integers.ravel().tolist()], object)
    integers = integers.reshape(-1, INTEGERS)
    integers[rows.integers_missing] = ""
    labels = map(str, rows.label.tolist())
    lines = zip(labels, integers.tolist(), categories.tolist(), strict=True)
    return "".join("\t".join((y, *i, *c)) + "\n" for y, i, c in lines).encode()


def _require(condition: bool | np.bool_) -> None:
    if not condition:
        raise MalformedRowError


def _field_ends(characters: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Where each field ends, [rows, 40]: 39 tabs and a newline a row."""
    found = np.flatnonzero(characters <= _NEWLINE)
    _require(len(found) % COLUMNS == 0)
    ends = found.reshape(-1, COLUMNS)
    separators = characters[ends]
    _require((separators[:, :-1] == _TAB).all() and (separators[:, -1] == _NEWLINE).all())
    return ends


def _words(text: bytes) -> NDArray[np.uint64]:
    """The eight digits, a byte each, that *end* before character i are word `i + 2 * _WORD`."""
    digits = (_PADDING + text).translate(_DIGIT)
    return np.ndarray((len(digits) - _WORD + 1,), "<u8", digits, strides=(1,))


def _numbers(
    words: NDArray[np.uint64], ends: NDArray[np.intp], lengths: NDArray[np.intp], base: int
) -> NDArray[np.int64]:
    """The numbers of `lengths` digits that end at `ends`; no digits are 0."""
    longest = lengths.max(initial=0)
    _require(longest <= MAX_DIGITS)
    total = np.zeros(ends.shape, np.int64)
    for done in range(0, int(longest), _WORD):
        word = words[ends + (len(_PADDING) - _WORD - done)]
        word &= _LAST_BYTES[np.clip(lengths - done, 0, _WORD)]
        total += _combine_digits(word, base).view(np.int64) * base**done
    return total


def _combine_digits(word: NDArray[np.uint64], base: int) -> NDArray[np.uint64]:
    """Add up eight digits, the first in the lowest byte, by pairs, fours and eights."""
    above_base = (word + np.uint64((0x80 - base) * _EACH_BYTE)) | word
    _require(not (above_base & np.uint64(0x80 * _EACH_BYTE)).any())
    for bits, kept in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0xFFFFFFFF)):
        later = word >> np.uint64(bits)
        word *= np.uint64(base ** (bits // 8))
        word += later
        word &= np.uint64(kept)
    return word


def _reason(line: bytes) -> str:
    fields = line.split(b"\t")
    if len(fields) != COLUMNS:
        return f"{_shown(line)} has {len(fields)} tab-separated fields, not {COLUMNS}"
    return next(
        f"field {name}: {_shown(field)} is not {expected}"
        for name, field, (pattern, expected) in zip(FIELD_NAMES, fields, _FIELD_RULES, strict=True)
        if not pattern.fullmatch(field)
    )


def _shown(value: bytes, limit: int = 40) -> str:
    """A value as an error message quotes it: one line, printable, not long."""
    shown = ascii(value[:limit])[1:]  # without the b of bytes
    return shown + "..." * (len(value) > limit)
