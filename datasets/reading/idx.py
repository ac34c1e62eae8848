"""Reads image sets in the idx format of MNIST: four files of bytes, plain or gzip.

A file consists of two zero bytes, the byte 8 for unsigned bytes, the number of dimensions, each dimension
as a big-endian 32-bit integer, and the values. The last dimension varies fastest. See LeCun, Cortes and
Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.image_set import (
    Bytes,
    ImageSet,
    LabelledImages,
    published_name,
    published_set,
)

FILES = tuple(
    f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
)


def is_idx(folder: Path) -> bool:
    """Returns whether at least one of the four files is in `folder`."""
    return any(_place(folder, name) is not None for name in FILES)


def read_idx_set(folder: Path, validation_fraction: float) -> ImageSet:
    """Reads the set in `folder`. Its checksums give its name. If they are unknown, the folder does.

    A random part of each class validates.

    Raises:
        DataError: a file is missing, unreadable or damaged, or does not belong to the same set as the
            others.
    """
    contents = {name: _content(folder, name) for name in FILES}
    arrays = {name: _array(folder / name, contents[name]) for name in FILES}
    name = published_name(folder, contents) or folder.resolve().name
    train, test = (_part(folder, part, arrays) for part in ("train", "t10k"))
    return published_set(name, train, test, validation_fraction)


def _place(folder: Path, name: str) -> Path | None:
    """Returns the path of the file or of its `.gz`. If both exist, only the plain file is read."""
    places = (folder / name, folder / f"{name}.gz")
    return next((place for place in places if place.exists()), None)


def _content(folder: Path, name: str) -> bytes:
    place = _place(folder, name)
    if place is None:
        raise DataError(f"{folder} has no {name} and no {name}.gz; put the set's four files there")
    with explained(f"cannot read {place}", "check that it is a file you may read"):
        content = place.read_bytes()
    if place.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{place} is not a whole gzip file: {error}; fetch it again") from error


def _array(file: Path, content: bytes) -> Bytes:
    dimensions = 3 if "images" in file.name else 1
    begin = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        raise DataError(
            f"{file} is not an idx file of bytes in {dimensions} dimensions: it begins with"
            f" 0x{content[:4].hex()}, not 0x{magic.hex()}; fetch it again"
        )
    if len(content) < begin:
        raise DataError(f"{file} ends within its header of {begin} bytes; fetch it again")
    shape = [int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4)]
    if math.prod(shape) != len(content) - begin:
        raise DataError(
            f"{file} promises {' x '.join(map(str, shape))} values and holds"
            f" {len(content) - begin}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


def _part(folder: Path, part: str, arrays: dict[str, Bytes]) -> LabelledImages:
    images = arrays[f"{part}-images-idx3-ubyte"]
    labels = arrays[f"{part}-labels-idx1-ubyte"]
    if len(images) != len(labels):
        raise DataError(
            f"{folder} has {len(images)} images in {part}-images-idx3-ubyte and {len(labels)} labels"
            f" in {part}-labels-idx1-ubyte; give files of one set"
        )
    return LabelledImages(images[:, None], labels.astype(np.int64))
