"""Finds photographs in a folder of class folders, ImageNet's layout; opens none but to check them.

    train/CLASS/*.jpg     val/CLASS/*.jpg     test/CLASS/*.jpg

A class is the folder's name, and they are numbered in alphabetical order. Photographs may lie deeper
within it. Hidden folders are none, and folders without a photograph are no classes.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.photograph import common_size, size_of

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
VALIDATION = ("val", "valid", "validation")
VERSION = 2  # raise it when other images are found in the same folder, or decoded otherwise
SIZED = 256  # images whose sizes are looked at
ADVICE = "give a folder with train/CLASS/ and val/CLASS/"


class ImageFiles(NamedTuple):
    """Places of N images, and their classes."""

    files: list[Path]
    labels: list[int]

    def rows(self, chosen: np.ndarray) -> "ImageFiles":
        return ImageFiles([self.files[i] for i in chosen], [self.labels[i] for i in chosen])


class ImageFolder(NamedTuple):
    """A folder's images, not yet read. `content` stands for them: names, sizes, times of change.

    `left_out` are folders within it without an image.
    """

    name: str
    train: ImageFiles
    validation: ImageFiles
    test: ImageFiles | None
    classes: int
    content: str
    left_out: list[Path]

    def size(self) -> tuple[int, bool]:
        """The side that the images have in common, in pixels, and whether all are that square.

        Some of the training images are looked at, evenly chosen.

        Raises:
            DataError: one of them is no image.
        """
        files = self.train.files
        chosen = np.unique(np.linspace(0, len(files) - 1, SIZED).astype(int))
        return common_size([size_of(files[i]) for i in chosen])


def is_image_folder(path: Path) -> bool:
    return (path / "train").is_dir()


def list_images(path: Path, validation_fraction: float) -> ImageFolder:
    """Lists the images under `path`/train, `path`/val and `path`/test; opens none.

    Where there is no folder to validate on, a part of each class's training images is for that, drawn
    at random, always the same.

    Raises:
        DataError: a folder is missing or empty, or there is a class to validate on and not to train on.
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
    """The images of each class, in alphabetical order; folders without one join `left_out`."""
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
    """Training images and, of each class, a fraction to validate on."""
    generator = np.random.default_rng(0)
    labels = np.array(train.labels)
    validates = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        count = max(1, round(fraction * len(rows)))
        validates[rows[: min(count, len(rows) - 1)]] = True
    if not validates.any():
        raise DataError(
            f"{path} has no val/CLASS/, and one image of each class in train is too few to validate"
            " on one; add that folder, or more images"
        )
    return train.rows(np.flatnonzero(~validates)), train.rows(np.flatnonzero(validates))


def check_headers(folder: ImageFolder) -> None:
    """Opens every file, but decodes none: what is no image at all is found before training.

    Raises:
        DataError: names the first file that is not an image.
    """
    parts = [part for part in (folder.train, folder.validation, folder.test) if part]
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(size_of, (file for part in parts for file in part.files)):
            pass
