"""Image sets in memory, which the readers of published sets return, and the published checksums."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.datasets.reading.cache import DataError

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]

# The MD5 of the unpacked content of each file. Mirrors compress the files again, which changes the MD5 of
# the archive but not of its content.
PUBLISHED = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "Fashion-MNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    "CIFAR-10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    "CIFAR-100": {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
}


class LabelledImages(NamedTuple):
    """N images and their classes."""

    images: Bytes  # [N, C, H, W]
    labels: Labels  # [N], from 0

    def rows(self, chosen: NDArray[Any]) -> "LabelledImages":
        return LabelledImages(self.images[chosen], self.labels[chosen])


class ImageSet(NamedTuple):
    """A set of images in memory, with a training part, a validation part and perhaps a test part.

    `name` is the name in a record. `content` is the SHA-256 of the whole set.
    """

    name: str
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages | None
    content: str

    @property
    def classes(self) -> int:
        parts = (self.train, self.validation, *([self.test] if self.test else []))
        return 1 + int(max(part.labels.max() for part in parts))


def held_out(labels: Labels, fraction: float) -> NDArray[np.bool_]:
    """Returns which images validate: a random fraction of each class, at least one, but never all of it.

    It is always the same part.
    """
    generator = np.random.default_rng(0)
    validates = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        count = max(1, round(fraction * len(rows)))
        validates[rows[: min(count, len(rows) - 1)]] = True
    return validates


def published_set(
    name: str, train: LabelledImages, test: LabelledImages, validation_fraction: float
) -> ImageSet:
    """Makes a set of published parts. A random part of each class in `train` validates.

    Raises:
        DataError: as `image_set`.
    """
    validates = held_out(train.labels, validation_fraction)
    return image_set(name, train.rows(~validates), train.rows(validates), test)


def image_set(
    name: str,
    train: LabelledImages,
    validation: LabelledImages,
    test: LabelledImages | None = None,
) -> ImageSet:
    """Makes a set of its parts.

    Raises:
        DataError: a part is empty, the images are not square, or the parts differ in image shape.
    """
    parts = (train, validation, *([test] if test else []))
    shape = train.images.shape[1:]
    for part in parts:
        if not part.images.size:
            raise DataError(f"{name} has no images to train, validate or test on; give more")
        if (other := part.images.shape[1:]) != shape:
            raise DataError(
                f"{name}: training images are {_size(shape)} and test images {_size(other)} pixels;"
                " give files of one set"
            )
    if shape[1] != shape[2]:
        raise DataError(f"{name}: images are {_size(shape)} pixels; crop them to squares")
    content = hashlib.sha256()
    for array in (array for part in parts for array in part):
        content.update(str(array.shape).encode() + np.ascontiguousarray(array).data)
    return ImageSet(name, train, validation, test, content.hexdigest())


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[2]}"


def published_name(source: Path, contents: Mapping[str, bytes]) -> str | None:
    """Returns the name of the published set with these checksums, or None for any other set.

    Args:
        source: the folder or archive, for the error message.
        contents: the content of each file, by its published name.

    Raises:
        DataError: some of the files belong to a published set, and another file does not.
    """
    found = {
        name: hashlib.md5(content, usedforsecurity=False).hexdigest()
        for name, content in contents.items()
    }

    def agreeing(name: str) -> int:
        return len(PUBLISHED[name].items() & found.items())

    nearest = max(PUBLISHED, key=agreeing)
    if not agreeing(nearest):
        return None
    for name, expected in PUBLISHED[nearest].items():
        if found[name] != expected:
            raise DataError(
                f"{source / name}: its content has MD5 {found[name]} and that of {nearest} beside it"
                f" {expected}; fetch it again"
            )
    return nearest


def moments(images: Bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the mean and the standard deviation of each channel, float32 [C] each.

    The standard deviation of a constant channel is given as 1.
    """
    pixels = images.shape[0] * images.shape[2] * images.shape[3]
    sums = np.zeros((2, images.shape[1]))
    for part in np.array_split(images, -(-len(images) // 1000)):
        values = part.astype(np.float64)
        sums += [values.sum(axis=(0, 2, 3)), np.square(values).sum(axis=(0, 2, 3))]
    mean, square = sums / pixels
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    deviation[deviation == 0] = 1
    return mean.astype(np.float32), deviation.astype(np.float32)
