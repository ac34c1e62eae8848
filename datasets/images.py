"""Image classification: MNIST, Fashion-MNIST, CIFAR and folders of photographs, or embedded digits.

See docs/datasets/images.md for the formats, the checks and the measured figures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

from paceline.datasets.batches import collate
from paceline.datasets.reading import cache, image_folder
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.cifar import is_cifar, read_cifar
from paceline.datasets.reading.idx import is_idx, read_idx_set
from paceline.datasets.reading.image_folder import (
    ImageFiles,
    ImageFolder,
    is_image_folder,
    list_images,
)
from paceline.datasets.reading.image_set import ImageSet, LabelledImages, image_set, moments

Indices = Sequence[int] | NDArray[np.integer[Any]]

PREPARATION_VERSION = 1  # of what happens to pixels, here and in image_folder
DIGITS_TO_TRAIN = 1437  # of 1,797, four fifths
SHIFT = 4  # pixels, of a random crop
EVALUATION_PIXELS = 2**20  # in one batch: ResNet-18 needs about 1 GB for them
WANTED = (
    "name a folder of idx files, CIFAR's archive or folder, or a folder with train/CLASS/ and"
    " val/CLASS/ with --data"
)


class ImageBatch(NamedTuple):
    """B examples."""

    image: Tensor  # float32 [B, C, H, W], each channel standardised
    label: Tensor  # int64 [B], from 0


class Standard(NamedTuple):
    """Mean and standard deviation that a channel is standardised with, float32 [C] each."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Of uint8 [B, C, H, W] the float32 that a model sees."""
        mean, deviation = (torch.from_numpy(values)[:, None, None] for values in self)
        return (torch.from_numpy(pixels) - mean) / deviation


class StoredImages(Dataset[ImageBatch]):
    """Images in memory; with `augment`, shifted by up to 4 pixels and mirrored at random.

    He et al. (2015), "Deep Residual Learning for Image Recognition", section 4.2. What comes in at the
    edge is the channel's mean. The random numbers are torch's global ones.
    """

    def __init__(self, part: LabelledImages, standard: Standard, augment: bool) -> None:
        self._part, self._standard, self._augment = part, standard, augment

    def __len__(self) -> int:
        return len(self._part.labels)

    def __getitem__(self, index: int) -> ImageBatch:
        """One example, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Indices) -> ImageBatch:
        """The examples at `indices` as one batch."""
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
    """Photographs, decoded when they are asked for; with `augment`, of each a random part.

    Otherwise it is the centre. The random numbers are torch's global ones.
    """

    def __init__(self, part: ImageFiles, size: int, augment: bool) -> None:
        self._part, self._size, self._augment = part, size, augment
        self._standard = Standard(image_folder.MEAN, image_folder.DEVIATION)

    def __len__(self) -> int:
        return len(self._part.labels)

    def __getitem__(self, index: int) -> ImageBatch:
        """One example, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Indices) -> ImageBatch:
        """The examples at `indices` as one batch.

        Raises:
            DataError: names the file that is not a whole image.
        """
        places = torch.rand(len(indices), 5) if self._augment else [None] * len(indices)
        pixels = [
            image_folder.decode(self._part.files[index], self._size, place)
            for index, place in zip(indices, places, strict=True)
        ]
        labels = torch.tensor([self._part.labels[index] for index in indices])
        return ImageBatch(self._standard(np.stack(pixels)), labels)


class Images(LightningDataModule):
    """Images of one size with one label each.

    Args:
        path: a folder of idx files (MNIST and its kin), CIFAR-10 or CIFAR-100 for Python, its folder or
            its archive, or a folder with `train/CLASS/` and `val/CLASS/`; None is scikit-learn's
            handwritten digits.
        augment: random crops and mirrored copies of CIFAR and of photographs to train on; digits and
            idx files stay as they are.
        crop_size: pixels of the side of the square that a photograph in a folder is cropped to.

    Attributes:
        channels: of an image, 1 or 3.
        image_size: height and width in pixels.
        classes: how many.
        evaluation_batch: images that are evaluated at once.

    Raises:
        DataError: an argument is out of range, or the data cannot be used.
    """

    provides = ("channels", "image_size", "classes")  # what a model has to know of the data
    batch_size = 64  # of the loaders below; a benchmark brings its own sampler

    train_dataset: Dataset[ImageBatch]
    validation_dataset: Dataset[ImageBatch]
    channels: int
    image_size: int
    classes: int

    def __init__(self, path: str | None = None, augment: bool = True, crop_size: int = 224) -> None:
        super().__init__()
        if crop_size < 1:
            raise DataError(f"crop_size is {crop_size}; it must be at least 1")
        self._path = None if path is None else Path(path).expanduser()
        self._augment, self._crop_size = augment, crop_size
        self._source: ImageSet | ImageFolder | None = None

    def prepare_data(self) -> None:
        """Open every photograph of a folder once; nothing is written."""
        self.setup()
        if isinstance(self._source, ImageFolder):
            image_folder.check_headers(self._source)

    def setup(self, stage: str | None = None) -> None:
        """Read the images, or list those of a folder."""
        if self._source is None:
            self._source = _read(self._path)
            if isinstance(self._source, ImageFolder):
                self._use_folder(self._source)
            else:
                self._use_set(self._source)

    def _use_set(self, images: ImageSet) -> None:
        _, self.channels, self.image_size, _ = images.train.images.shape
        self.classes = images.classes
        standard = Standard(*moments(images.train.images))
        augment = self._augment and self.channels == 3
        self.train_dataset = StoredImages(images.train, standard, augment)
        self.validation_dataset = StoredImages(images.validation, standard, augment=False)

    def _use_folder(self, folder: ImageFolder) -> None:
        self.channels, self.image_size, self.classes = 3, self._crop_size, folder.classes
        self.train_dataset = ImagesOnDisk(folder.train, self._crop_size, self._augment)
        self.validation_dataset = ImagesOnDisk(folder.validation, self._crop_size, augment=False)

    @property
    def evaluation_batch(self) -> int:
        return max(1, EVALUATION_PIXELS // self.image_size**2)

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Shuffled batches of `batch_size`."""
        return DataLoader(self.train_dataset, self.batch_size, shuffle=True, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        """Batches of `batch_size` in the order of the files."""
        return DataLoader(self.validation_dataset, self.batch_size, collate_fn=collate)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of the images and of what happens to them.

        Photographs in a folder are not read for it: names, sizes and times of change stand for them.
        """
        return cache.digest(
            [PREPARATION_VERSION, self._ready.content, self._augment, self.image_size]
        )

    @property
    def description(self) -> dict[str, str | int]:
        """Facts for a trial's record; `image_size` is in pixels."""
        source = self._ready
        return {
            "name": source.name,
            "synthetic": False,
            "train_rows": len(source.train.labels),
            "validation_rows": len(source.validation.labels),
            "channels": self.channels,
            "image_size": self.image_size,
            "classes": self.classes,
        }

    @property
    def _ready(self) -> ImageSet | ImageFolder:
        if self._source is None:
            raise RuntimeError("call prepare_data or setup first")
        return self._source


def _read(path: Path | None) -> ImageSet | ImageFolder:
    if path is None:
        return digits()
    with cache.explained(f"cannot read {path}", WANTED):
        path.stat()
    if is_cifar(path):
        return read_cifar(path)
    if is_idx(path):
        return read_idx_set(path)
    if is_image_folder(path):
        return list_images(path)
    raise DataError(f"{path} holds no images in a layout that is known; {WANTED}")


def digits() -> ImageSet:
    """scikit-learn's handwritten digits, 8 x 8 pixels of 0 to 16, the last fifth to validate on.

    Real digits, the test part of Alpaydin and Kaynak (1998), "Optical Recognition of Handwritten
    Digits", in the order of that file.
    """
    from sklearn.datasets import load_digits  # takes a second

    loaded = load_digits()
    images = loaded.images.astype(np.uint8)[:, None]
    labels = loaded.target.astype(np.int64)
    parts = [
        LabelledImages(images[rows], labels[rows])
        for rows in (slice(DIGITS_TO_TRAIN), slice(DIGITS_TO_TRAIN, None))
    ]
    return image_set("scikit-learn digits", *parts)
