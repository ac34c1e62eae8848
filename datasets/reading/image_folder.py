"""Finds photographs in a folder of class folders, the layout of ImageNet. It opens them only for checks.

    train/CLASS/*.jpg     val/CLASS/*.jpg     test/CLASS/*.jpg

Each class has the name of its folder. The classes are numbered in alphabetical order. Photographs may
be in subfolders of a class folder. Hidden folders and folders without photographs are not classes.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.image_set import held_out
from paceline.datasets.reading.photograph import common_size, size_of

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
VALIDATION = ("val", "valid", "validation")
VERSION = 2  # raise it when the same folder gives other images, or they are decoded differently
SIZED = 256  # the number of images whose sizes are read
ADVICE = "give a folder with train/CLASS/ and val/CLASS/"


class ImageFiles(NamedTuple):
    """The paths of N images, and their classes."""

    files: list[Path]
    labels: list[int]

    def rows(self, chosen: np.ndarray) -> "ImageFiles":
        return ImageFiles([self.files[i] for i in chosen], [self.labels[i] for i in chosen])


class ImageFolder(NamedTuple):
    """The images of a folder, which are not read yet.

    `content` is a hash of their names, sizes and modification times. `left_out` are the class folders
    without an image.
    """

    name: str
    train: ImageFiles
    validation: ImageFiles
    test: ImageFiles | None
    classes: int
    content: str
    left_out: list[Path]

    def size(self) -> tuple[int, bool]:
        """Returns the common side in pixels, and whether all images are squares of that size.

        It reads the sizes of at most 256 evenly spaced training images.

        Raises:
            DataError: one of these files is not an image.
        """
        files = self.train.files
        chosen = np.unique(np.linspace(0, len(files) - 1, SIZED).astype(int))
        return common_size([size_of(files[i]) for i in chosen])


def is_image_folder(path: Path) -> bool:
    return (path / "train").is_dir()


def list_images(path: Path, validation_fraction: float) -> ImageFolder:
    """Lists the images under `path`/train, `path`/val and `path`/test. It opens none of them.

    If there is no validation folder, a random part of each class's training images is used for
    validation. It is always the same part.

    Raises:
        DataError: a folder is missing or empty, or a class is not in the training folder.
    """
    left_out: list[Path] = []
    with explained(f"cannot read {path}", ADVICE):
        train = _classes(path / "train", left_out)
        names = list(train)
        trained = _files(path / "train", train, names)
        found = [path / name for name in VALIDATION if (path / name).is_dir()]
        if len(found) > 1:
            raise DataError(f"{found[0]} and {found[1]} are both there; leave one to validate on")
        if found:
            validated = _files(found[0], _classes(found[0], left_out), names)
        else:
            trained, validated = _cut(path, trained, validation_fraction)
        tested = None
        if (path / "test").is_dir() and (classes := _classes(path / "test", left_out)):
            tested = _files(path / "test", classes, names)
        content = hashlib.sha256(str(VERSION).encode())
        for part in (trained, validated, tested or ImageFiles([], [])):
            content.update(f"{len(part.files)}\n".encode())
            for file in part.files:
                state = file.stat()
                line = f"{file.relative_to(path)}\0{state.st_size}\0{state.st_mtime_ns}\n"
                content.update(line.encode(errors="surrogateescape"))
    name = path.resolve().name
    digest = content.hexdigest()
    return ImageFolder(name, trained, validated, tested, len(names), digest, left_out)


def _classes(part: Path, left_out: list[Path]) -> dict[str, list[Path]]:
    """Returns the images of each class in alphabetical order. Adds empty folders to `left_out`."""
    classes = {}
    for folder in sorted(entry for entry in part.iterdir() if entry.is_dir()):
        if _hidden(folder.name):
            continue
        files = sorted(_images(folder, frozenset({folder.resolve()})))
        if files:
            classes[folder.name] = files
        else:
            left_out.append(folder)
    return classes


def _images(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            place = Path(entry.path)
            if _hidden(entry.name):
                continue
            if not entry.is_dir():
                if place.suffix.lower() in SUFFIXES:
                    yield place
            elif (real := place.resolve()) not in above:  # a link to a folder above has no end
                yield from _images(place, above | {real})


def _hidden(name: str) -> bool:
    return name[0] == "." or name == "__MACOSX"


def _files(part: Path, classes: dict[str, list[Path]], names: list[str]) -> ImageFiles:
    for name in classes:
        if name not in names:
            raise DataError(f"{part / name} is a class with no folder in train; add or remove it")
    if not classes:
        raise DataError(
            f"{part} has no class folders with images; put each class in one of its own"
        )
    number = {name: label for label, name in enumerate(names)}
    files = [file for found in classes.values() for file in found]
    labels = [number[name] for name, found in classes.items() for _ in found]
    return ImageFiles(files, labels)


def _cut(path: Path, train: ImageFiles, fraction: float) -> tuple[ImageFiles, ImageFiles]:
    """Divides the images of each class into a training part and a validation part."""
    validates = held_out(np.array(train.labels), fraction)
    if not validates.any():
        raise DataError(
            f"{path} has no val/CLASS/, and one image of each class in train is too few to validate"
            " on one; add that folder, or more images"
        )
    return train.rows(np.flatnonzero(~validates)), train.rows(np.flatnonzero(validates))


def check_headers(folder: ImageFolder) -> None:
    """Opens every file without decoding it, so that files that are not images are found before training.

    Raises:
        DataError: a file is not an image. The message names the first such file.
    """
    parts = [part for part in (folder.train, folder.validation, folder.test) if part]
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(size_of, (file for part in parts for file in part.files)):
            pass
