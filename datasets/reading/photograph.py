"""Reads any image that Pillow opens as a square of 8-bit red, green and blue."""

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

# Of ImageNet's training images, with values from 0 to 255. These are the usual values for photographs.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)
CENTRE = 0.875  # the part of the shorter side that is used for validation
LARGEST = 224  # pixels that photographs of many sizes are scaled to
ADVICE = "remove it or put a whole image in its place"


@contextmanager
def whole(file: Path) -> Iterator[None]:
    """Turns any error that Pillow raises for a broken file into a `DataError`."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(
            f"{file} is not an image of a format that Pillow reads; {ADVICE}"
        ) from error
    except Exception as error:  # Pillow's decoders can raise any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file} cannot be read as an image: {reason}; {ADVICE}") from error


def size_of(file: Path) -> tuple[int, int]:
    """Returns the width and height of an image in its displayed orientation. It reads only the header.

    Raises:
        DataError: the file is not an image.
    """
    with whole(file), Image.open(file) as image:
        lying = image.getexif().get(Base.Orientation, 1) in (5, 6, 7, 8)
        return image.size[::-1] if lying else image.size


def common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, bool]:
    """Returns the side of the square for images of these sizes, and whether they keep their size.

    If all images are squares of one size, they keep it. Otherwise, they are cropped and scaled to the
    median of their shorter sides, at most 224 pixels.
    """
    if len({side for size in sizes for side in size}) == 1:
        return sizes[0][0], True
    return min(LARGEST, round(median(min(size) for size in sizes))), False


def decode(file: Path, size: int, place: Tensor | None = None, kept: bool = False) -> Bytes:
    """Reads an image as a square, uint8 [3, size, size], in the order red, green, blue.

    Args:
        file: the path of the image.
        size: the side of the result in pixels.
        place: five numbers in [0, 1). The first four choose the part of the image, as in `random_box`.
            The fifth chooses whether it is mirrored. With None, the part is the centre.
        kept: if True, an image that already has this size is returned unchanged.

    Raises:
        DataError: the file is not a complete image.
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
    """Converts an image to upright 8-bit colours. Transparent images are put on white."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or upright.mode.startswith("I"):
        return Image.fromarray(_scaled(np.asarray(upright))).convert("RGB")
    if upright.has_transparency_data:
        over = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return upright.convert("RGB")


def _scaled(values: np.ndarray) -> Bytes:
    """Scales grey values of 16 bits or from 0 to 1 to 0 to 255. Pillow would clip them at 255."""
    if values.dtype.kind == "f":
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("its floating-point values are not within 0 and 1: scale them")
        return np.round(values * 255).astype(np.uint8)
    if not ((values >= 0) & (values <= 0xFFFF)).all():
        raise ValueError("its values have more than 16 bits: scale them")
    return np.round(values / 257).astype(np.uint8)


def centre_box(width: int, height: int) -> Box:
    """Returns the centre square as (left, upper, right, lower). Its side is 7/8 of the shorter side."""
    side = CENTRE * min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def random_box(width: int, height: int, place: Tensor) -> Box:
    """Returns a part of the image as (left, upper, right, lower).

    It has 8 to 100 % of the area and a shape from 3:4 to 4:3 (Szegedy et al. 2015, section 6). A part
    that would be larger than the image is cut. The first four numbers of `place` [>= 4], each in [0, 1),
    choose the area, the shape, the left edge and the upper edge.
    """
    area = width * height * (0.08 + 0.92 * float(place[0]))
    shape = math.exp(math.log(4 / 3) * (2 * float(place[1]) - 1))
    across, down = min(width, math.sqrt(area * shape)), min(height, math.sqrt(area / shape))
    left, upper = (width - across) * float(place[2]), (height - down) * float(place[3])
    return left, upper, left + across, upper + down
