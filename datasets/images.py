"""Image classification on MNIST, Fashion-MNIST, CIFAR, folders of photographs, or embedded digits.

See docs/datasets/images.md for the formats, the checks and the measured figures.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from paceline.datasets.batches import collate
from paceline.datasets.image_batches import ImageBatch, ImagesOnDisk, Standard, StoredImages
from paceline.datasets.reading import cache
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.cifar import is_cifar, read_cifar
from paceline.datasets.reading.files import check
from paceline.datasets.reading.idx import is_idx, read_idx_set
from paceline.datasets.reading.image_folder import (
    ImageFolder,
    check_headers,
    is_image_folder,
    list_images,
)
from paceline.datasets.reading.image_set import ImageSet, LabelledImages, image_set, moments

logger = logging.getLogger(__name__)

PREPARATION_VERSION = 1  # raise it when pixels in memory are prepared differently
DIGITS_TO_TRAIN = 1437  # of 1,797, four fifths
EVALUATION_PIXELS = 2**20  # in one batch: ResNet-18 needs about 1 GB for them
WANTED = (
    "name a folder of idx files, CIFAR's archive or folder, or a folder with train/CLASS/ and"
    " val/CLASS/ with --data"
)


class Images(LightningDataModule):
    """Square images of one size, each with one label.

    Args:
        path: a folder of idx files (MNIST and similar sets), the folder or archive of CIFAR-10 or
            CIFAR-100 for Python, or a folder with `train/CLASS/` and optionally `val/CLASS/` and
            `test/CLASS/`. With None, scikit-learn's handwritten digits are used.
        augment: if True, the training images of CIFAR and of folders of photographs are cropped and
            mirrored at random. Digits and idx files are never augmented.
        crop_size: the side in pixels of the square that a photograph in a folder is cropped and scaled
            to. With None, it is the size of the photographs if all are squares of one size. Otherwise,
            it is the median of their shorter sides, at most 224.
        validation_fraction: the fraction of each class's training images to validate on. It is not used
            if there is a folder of validation images.

    Attributes:
        channels: the number of channels of an image, 1 or 3.
        image_size: the height and width in pixels.
        classes: the number of classes.
        evaluation_batch: the number of images that are evaluated at once.

    Raises:
        DataError: an argument is out of range, or the data cannot be used.
    """

    provides = ("channels", "image_size", "classes")  # what a model needs to know about the data
    batch_size = 64  # for the loaders below; a benchmark uses its own sampler

    train_dataset: Dataset[ImageBatch]
    validation_dataset: Dataset[ImageBatch]
    test_dataset: Dataset[ImageBatch] | None = None
    channels: int
    image_size: int
    classes: int

    def __init__(
        self,
        path: str | None = None,
        augment: bool = True,
        crop_size: int | None = None,
        validation_fraction: float = 0.1,
    ) -> None:
        super().__init__()
        check("crop_size", crop_size, crop_size is None or crop_size >= 1, "at least 1")
        check(
            "validation_fraction", validation_fraction, 0 < validation_fraction < 1, "within (0, 1)"
        )
        self._path = None if path is None else Path(path).expanduser()
        self._augment, self._crop_size = augment, crop_size
        self._validation_fraction = validation_fraction
        self._kept = False  # photographs at their own size
        self._source: ImageSet | ImageFolder | None = None

    def prepare_data(self) -> None:
        """Checks the header of every photograph of a folder. Writes nothing."""
        self.setup()
        if isinstance(self._source, ImageFolder):
            if self._source.left_out:
                names = ", ".join(str(folder) for folder in self._source.left_out)
                logger.warning("no classes, as they hold no images: %s", names)
            check_headers(self._source)

    def setup(self, stage: str | None = None) -> None:
        """Reads the images into memory, or lists the photographs of a folder."""
        if self._source is None:
            self._source = _read(self._path, self._validation_fraction)
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
        if images.test:
            self.test_dataset = StoredImages(images.test, standard, augment=False)

    def _use_folder(self, folder: ImageFolder) -> None:
        self.channels, self.classes = 3, folder.classes
        size, kept = (self._crop_size, False) if self._crop_size else folder.size()
        self.image_size, self._kept = size, kept
        self.train_dataset = ImagesOnDisk(folder.train, size, kept, self._augment)
        self.validation_dataset = ImagesOnDisk(folder.validation, size, kept, augment=False)
        if folder.test:
            self.test_dataset = ImagesOnDisk(folder.test, size, kept, augment=False)

    @property
    def evaluation_batch(self) -> int:
        return max(1, EVALUATION_PIXELS // self.image_size**2)

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Returns a loader of shuffled training batches of `batch_size` images."""
        return DataLoader(self.train_dataset, self.batch_size, shuffle=True, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        """Returns a loader of validation batches of `batch_size` images, in the order of the files."""
        return DataLoader(self.validation_dataset, self.batch_size, collate_fn=collate)

    def test_dataloader(self) -> DataLoader[ImageBatch] | list[Any]:
        """Returns a loader of the test part, or an empty list if there is no test part.

        The test part is used neither for training nor for validation.
        """
        if self.test_dataset is None:
            return []
        return DataLoader(self.test_dataset, self.batch_size, collate_fn=collate)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the images and of their preparation, in hexadecimal.

        Photographs in a folder are not read for it. Their names, sizes and modification times are used
        instead.
        """
        return cache.digest(
            [PREPARATION_VERSION, self._ready.content, self._augment, self.image_size]
            + ["kept"] * self._kept
        )

    @property
    def description(self) -> dict[str, str | int]:
        """The facts for a trial's record. `image_size` is in pixels."""
        source = self._ready
        tested = {} if self.test_dataset is None else {"test_rows": len(self.test_dataset)}  # type: ignore[arg-type]
        return {
            "name": source.name,
            "synthetic": False,
            "train_rows": len(source.train.labels),
            "validation_rows": len(source.validation.labels),
            "channels": self.channels,
            "image_size": self.image_size,
            "classes": self.classes,
            **tested,
        }

    @property
    def _ready(self) -> ImageSet | ImageFolder:
        if self._source is None:
            raise RuntimeError("call prepare_data or setup first")
        return self._source


def _read(path: Path | None, validation_fraction: float) -> ImageSet | ImageFolder:
    if path is None:
        return digits()
    with cache.explained(f"cannot read {path}", WANTED):
        path.stat()
    if is_cifar(path):
        return read_cifar(path, validation_fraction)
    if is_idx(path):
        return read_idx_set(path, validation_fraction)
    if is_image_folder(path):
        return list_images(path, validation_fraction)
    raise DataError(f"{path} holds no images in a layout that is known; {WANTED}")


def digits() -> ImageSet:
    """Returns scikit-learn's handwritten digits: 8 x 8 pixels with values from 0 to 16.

    The last fifth is for validation. These are real digits: the test part of Alpaydin and Kaynak (1998),
    "Optical Recognition of Handwritten Digits", in the order of that file.
    """
    from sklearn.datasets import load_digits  # this import takes a second

    loaded = load_digits()
    images = loaded.images.astype(np.uint8)[:, None]
    labels = loaded.target.astype(np.int64)
    parts = [
        LabelledImages(images[rows], labels[rows])
        for rows in (slice(DIGITS_TO_TRAIN), slice(DIGITS_TO_TRAIN, None))
    ]
    return image_set("scikit-learn digits", *parts)
