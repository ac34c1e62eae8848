"""Reads photographs from a folder of class folders, ImageNet's layout, as they are asked for.

    train/CLASS/*.jpg     val/CLASS/*.jpg

A class is the folder's name; they are numbered in alphabetical order.
"""

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.image_set import Bytes

Box = tuple[float, float, float, float]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
# Of ImageNet's training images, of 0 to 255, and the custom for any photographs since.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
CENTRE = 0.875  # the part of the shorter side that is validated on
ADVICE = "remove it or put a whole image in its place"


class ImageFiles(NamedTuple):
    """Places of N images, and their classes."""

    files: list[Path]
    labels: list[int]


class ImageFolder(NamedTuple):
    """A folder's images, not yet read. `content` stands for them: names, sizes, times of change."""

    name: str
    train: ImageFiles
    validation: ImageFiles
    classes: int
    content: str


def is_image_folder(path: Path) -> bool:
    return (path / "train").is_dir()


def list_images(path: Path) -> ImageFolder:
    """Lists the images under `path`/train and `path`/val; opens none.

    Raises:
        DataError: a folder is missing or empty, or there is a class to validate on and not to train on.
    """
    with explained(f"cannot read {path}", "give a folder with train/CLASS/ and val/CLASS/"):
        classes = sorted(entry.name for entry in (path / "train").iterdir() if entry.is_dir())
        train = _files(path / "train", classes)
        validation = _files(path / "val", classes)
        content = hashlib.sha256()
        for file in (*train.files, *validation.files):
            state = file.stat()
            line = f"{file.relative_to(path)}\0{state.st_size}\0{state.st_mtime_ns}\n"
            content.update(line.encode(errors="surrogateescape"))
    name = path.resolve().name
    return ImageFolder(name, train, validation, len(classes), content.hexdigest())


def _files(part: Path, classes: list[str]) -> ImageFiles:
    files, labels = [], []
    for folder in sorted(entry for entry in part.iterdir() if entry.is_dir()):
        if folder.name not in classes:
            raise DataError(f"{folder} is a class with no folder in train; add or remove it")
        found = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
        files += found
        labels += [classes.index(folder.name)] * len(found)
    if not files:
        raise DataError(
            f"{part} has no class folders with images; put each class in one of its own"
        )
    return ImageFiles(files, labels)


def check_headers(folder: ImageFolder) -> None:
    """Opens every file, but decodes none: what is no image at all is found before training.

    Raises:
        DataError: names the first file that is not an image.
    """
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(_check_header, (*folder.train.files, *folder.validation.files)):
            pass


def _check_header(file: Path) -> None:
    with _whole(file), Image.open(file):
        pass


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Turns whatever Pillow makes of a broken file into a `DataError`."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(
            f"{file} is not an image of a format that Pillow reads; {ADVICE}"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} cannot be read as an image: {reason}; {ADVICE}") from error


def decode(file: Path, size: int, place: Tensor | None = None) -> Bytes:
    """An image cropped to a square of `size` pixels, uint8 [3, size, size], red, green and blue.

    Args:
        file: of the image.
        size: in pixels, whatever part of the image is cropped.
        place: five numbers of [0, 1) that choose the part and whether it is mirrored, as
            `random_box` does; None is the centre.

    Raises:
        DataError: the file is not a whole image.
    """
    with _whole(file), Image.open(file) as image:
        colours = image.convert("RGB")
    box = centre_box(*colours.size) if place is None else random_box(*colours.size, place)
    pixels = np.asarray(colours.resize((size, size), Image.Resampling.BILINEAR, box))
    if place is not None and place[4] < 0.5:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def centre_box(width: int, height: int) -> Box:
    """The square in the middle, 7/8 of the shorter side: left, upper, right, lower."""
    side = CENTRE * min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def random_box(width: int, height: int, place: Tensor) -> Box:
    """A part of 8 to 100 % of the area and a shape from 3:4 to 4:3 (Szegedy et al. 2015, section 6).

    Where it would reach beyond the image it is cut to it. `place` [>= 4] chooses area, shape, left and
    upper edge, each of [0, 1).
    """
    area = width * height * (0.08 + 0.92 * float(place[0]))
    shape = math.exp(math.log(4 / 3) * (2 * float(place[1]) - 1))
    across, down = min(width, math.sqrt(area * shape)), min(height, math.sqrt(area / shape))
    left, upper = (width - across) * float(place[2]), (height - down) * float(place[3])
    return left, upper, left + across, upper + down
