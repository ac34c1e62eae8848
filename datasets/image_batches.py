"""Batches of standardised images from memory or from files. Training images can be augmented."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from paceline.datasets.reading import photograph
from paceline.datasets.reading.image_folder import ImageFiles
from paceline.datasets.reading.image_set import LabelledImages

Indices = Sequence[int] | NDArray[np.integer[Any]]

SHIFT = 4  # pixels, of a random crop


class ImageBatch(NamedTuple):
    """B examples."""

    image: Tensor  # float32 [B, C, H, W], each channel standardised
    label: Tensor  # int64 [B], from 0


class Standard(NamedTuple):
    """The mean and the standard deviation of each channel, float32 [C] each, for standardisation."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Standardises images, from uint8 [B, C, H, W] to float32 of the same shape."""
        mean, deviation = (torch.from_numpy(values)[:, None, None] for values in self)
        return (torch.from_numpy(pixels) - mean) / deviation


class StoredImages(Dataset[ImageBatch]):
    """Images in memory. With `augment`, they are shifted by up to 4 pixels and mirrored at random.

    The augmentation is that of He et al. (2015), "Deep Residual Learning for Image Recognition", section
    4.2. New pixels at the edge get the mean of their channel. The random numbers come from torch's global
    generator.
    """

    def __init__(self, part: LabelledImages, standard: Standard, augment: bool) -> None:
        self._part, self._standard, self._augment = part, standard, augment

    def __len__(self) -> int:
        return len(self._part.labels)

    def __getitem__(self, index: int) -> ImageBatch:
        """Returns one example as a batch of size 1."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Indices) -> ImageBatch:
        """Returns the examples at `indices` as one batch."""
        image = self._standard(self._part.images.take(indices, axis=0))
        if self._augment:
            image = _moved(image)
        return ImageBatch(image, torch.from_numpy(self._part.labels.take(indices)))


def _moved(image: Tensor) -> Tensor:
    size = image.shape[-1]
    wide = pad(image, [SHIFT] * 4)
    places = torch.randint(0, 2 * SHIFT + 1, (len(image), 2)).tolist()
    moved = [one[:, y : y + size, x : x + size] for one, (y, x) in zip(wide, places, strict=True)]
    mirrored = torch.rand(len(image), 1, 1, 1) < 0.5
    stacked = torch.stack(moved)
    return torch.where(mirrored, stacked.flip(-1), stacked)


class ImagesOnDisk(Dataset[ImageBatch]):
    """Photographs on disk, decoded when they are requested.

    By default, the centre of each photograph is used. With `augment`, it is a random part. With `kept`,
    whole images are used. With `kept` and `augment`, they are shifted and mirrored like images in memory.
    The random numbers come from torch's global generator.
    """

    def __init__(self, part: ImageFiles, size: int, kept: bool, augment: bool) -> None:
        self._part, self._size, self._kept, self._augment = part, size, kept, augment
        self._standard = Standard(photograph.MEAN, photograph.DEVIATION)

    def __len__(self) -> int:
        return len(self._part.labels)

    def __getitem__(self, index: int) -> ImageBatch:
        """Returns one example as a batch of size 1."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Indices) -> ImageBatch:
        """Returns the examples at `indices` as one batch.

        Raises:
            DataError: a file is not a complete image. The message names the file.
        """
        cropped = self._augment and not self._kept
        places = torch.rand(len(indices), 5) if cropped else [None] * len(indices)
        pixels = [
            photograph.decode(self._part.files[index], self._size, place, self._kept)
            for index, place in zip(indices, places, strict=True)
        ]
        image = self._standard(np.stack(pixels))
        if self._augment and self._kept:
            image = _moved(image)
        labels = torch.tensor([self._part.labels[index] for index in indices])
        return ImageBatch(image, labels)
