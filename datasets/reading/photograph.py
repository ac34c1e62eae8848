"""Photographs: any file that Pillow opens, as a square of 8-bit red, green and blue."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base
from torch import Tensor

from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.image_set import Bytes

Box = tuple[float, float, float, float]

# Of ImageNet's training images, of 0 to 255, and the custom for any photographs since.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
CENTRE = 0.875  # the part of the shorter side that is validated on
LARGEST = 224  # pixels that photographs of many sizes are scaled to
ADVICE = "remove it or put a whole image in its place"


@contextmanager
def whole(file: Path) -> Iterator[None]:
    """Turn whatever Pillow makes of a broken file into a `DataError`."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(
            f"{file} is not an image of a format that Pillow reads; {ADVICE}"
        ) from error
    except Exception as error:  # its many decoders raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file} cannot be read as an image: {reason}; {ADVICE}") from error


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of an image as it is looked at, from its header alone.

    Raises:
        DataError: the file is no image.
    """
    with whole(file), Image.open(file) as image:
        lying = image.getexif().get(Base.Orientation, 1) in (5, 6, 7, 8)
        return image.size[::-1] if lying else image.size


def common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, bool]:
    """The side of the square that images of these sizes are given as, and whether they keep it.

    Images that are all one square keep their size; others are cropped and scaled to the median of
    their shorter sides, at most 224 pixels.
    """
    if len({side for size in sizes for side in size}) == 1:
        return sizes[0][0], True
    return min(LARGEST, round(median(min(size) for size in sizes))), False


def decode(file: Path, size: int, place: Tensor | None = None, kept: bool = False) -> Bytes:
    """An image cropped to a square of `size` pixels, uint8 [3, size, size], red, green and blue.

    Args:
        file: of the image.
        size: in pixels, whatever part of the image is cropped.
        place: five numbers of [0, 1) that choose the part and whether it is mirrored, as
            `random_box` does; None is the centre.
        kept: an image of this very size is given as it is.

    Raises:
        DataError: the file is not a whole image.
    """
    with whole(file), Image.open(file) as image:
        colours = _colours(image)
    if kept and colours.size == (size, size):
        return np.ascontiguousarray(np.asarray(colours).transpose(2, 0, 1))
    box = centre_box(*colours.size) if place is None else random_box(*colours.size, place)
    pixels = np.asarray(colours.resize((size, size), Image.Resampling.BILINEAR, box))
    if place is not None and place[4] < 0.5:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _colours(image: Image.Image) -> Image.Image:
    """An image as it is looked at: upright, on white where it is transparent, with 8 bits a colour."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or upright.mode.startswith("I"):
        return Image.fromarray(_scaled(np.asarray(upright))).convert("RGB")
    if upright.has_transparency_data:
        over = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return upright.convert("RGB")


def _scaled(values: np.ndarray) -> Bytes:
    """Grey values of 16 bits, or of 0 to 1, as 0 to 255; Pillow itself cuts them at 255."""
    if values.dtype.kind == "f":
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("its floating-point values are not within 0 and 1: scale them")
        return np.round(values * 255).astype(np.uint8)
    if not ((values >= 0) & (values <= 0xFFFF)).all():
        raise ValueError("its values have more than 16 bits: scale them")
    return np.round(values / 257).astype(np.uint8)


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
