"""Images as files hold them, and what reading them gives."""

import struct
from pathlib import Path

import numpy as np
import pytest

from paceline.datasets.images import Images
from paceline.datasets.reading.cache import DataError


def loaded(path: Path | None, **arguments: object) -> Images:
    data = Images(None if path is None else str(path), **arguments)
    data.prepare_data()
    data.setup()
    return data


def message(path: Path) -> str:
    """What a person is told who gives `path` as data, in one line."""
    with pytest.raises(DataError) as raised:
        loaded(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def idx(array: np.ndarray) -> bytes:
    """`array` of bytes in the idx format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def cut(file: Path, begin: bytes = b"", end: int | None = None) -> None:
    file.write_bytes(begin + file.read_bytes()[len(begin) : end])
