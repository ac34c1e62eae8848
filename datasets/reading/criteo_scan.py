"""The compiled inner loop that reads Criteo's format in one pass over the characters.

It is a separate module, because importing numba and compiling take time. A rank only maps the cache into
memory and never imports this module.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

_TAB, _NEWLINE, _MINUS, _ZERO = b"\t\n-0"
_NOT_HEXADECIMAL = 255
_HEXADECIMAL = np.full(256, _NOT_HEXADECIMAL, np.uint8)
for _digit in b"0123456789abcdefABCDEF":
    _HEXADECIMAL[_digit] = int(chr(_digit), 16)


@njit(nogil=True, cache=True)
def scan(
    text: NDArray[np.uint8],
    label: NDArray[np.uint8],
    integers: NDArray[np.int64],
    integers_missing: NDArray[np.bool_],
    categories: NDArray[np.uint32],
    categories_missing: NDArray[np.bool_],
    most_digits: int,
) -> bool:
    """Fills the arrays with one row per line and returns whether every line is well formed.

    Args:
        text: whole lines. The last character is a newline, which ends every loop below.
        label: the labels [n], where n is the number of newlines.
        integers: the integers [n, integer fields].
        integers_missing: [n, integer fields], True if the field is blank.
        categories: the categorical values [n, categorical fields].
        categories_missing: [n, categorical fields], True if the field is blank.
        most_digits: the largest number of digits of an integer.
    """
    position = 0
    for row in range(len(label)):
        label[row] = text[position] - _ZERO  # other characters wrap round to more than 1
        if label[row] > 1:
            return False
        position += 1
        for field in range(integers.shape[1]):
            if text[position] != _TAB:
                return False
            position += 1
            negative = text[position] == _MINUS
            position += negative
            start, integer = position, np.int64(0)
            while _ZERO <= text[position] < _ZERO + 10:
                integer = integer * 10 + (text[position] - _ZERO)
                position += 1
            if position - start > most_digits or (negative and position == start):
                return False
            integers[row, field] = -integer if negative else integer
            integers_missing[row, field] = position == start
        for field in range(categories.shape[1]):
            if text[position] != _TAB:
                return False
            position += 1
            start, category = position, np.uint32(0)
            while _HEXADECIMAL[text[position]] != _NOT_HEXADECIMAL:
                category = (category << np.uint32(4)) | _HEXADECIMAL[text[position]]
                position += 1
            if position - start not in (0, 8):
                return False
            categories[row, field] = category
            categories_missing[row, field] = position == start
        if text[position] != _NEWLINE:
            return False
        position += 1
    return position == len(text)
