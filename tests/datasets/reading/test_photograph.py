"""Photographs of every kind that Pillow opens, as they are looked at."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.photograph import common_size, decode, size_of


def seen(file: Path, size: int) -> np.ndarray:
    """An image at its own size, [size, size, 3]."""
    return decode(file, size, kept=True).transpose(1, 2, 0)


def saved(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16-bit.png", RAMP * 257),
        ("16-bit.tif", RAMP * 257),
        ("big-endian.tif", (RAMP * 257).astype(">u2")),
        ("32-bit.tif", (RAMP * 257).astype(np.int32)),
        ("float.tif", (RAMP / 255).astype(np.float32)),
        ("8-bit.png", RAMP.astype(np.uint8)),
    ],
)
def test_grey_of_any_depth_is_scaled(tmp_path: Path, name: str, values: np.ndarray) -> None:
    file = saved(tmp_path, Image.fromarray(values), name)
    assert np.array_equal(seen(file, 16), np.stack([RAMP] * 3, axis=2))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (RAMP.astype(np.float32), "its floating-point values are not within 0 and 1: scale them"),
        (
            np.full((4, 4), np.nan, np.float32),
            "its floating-point values are not within 0 and 1: scale them",
        ),
        (RAMP.astype(np.int32) * 2**16, "its values have more than 16 bits: scale them"),
        (-RAMP.astype(np.int32), "its values have more than 16 bits: scale them"),
    ],
)
def test_values_whose_scale_is_unknown_are_refused(
    tmp_path: Path, values: np.ndarray, told: str
) -> None:
    file = saved(tmp_path, Image.fromarray(values), "a.tif")
    with pytest.raises(DataError) as raised:
        decode(file, 16)
    assert str(raised.value) == (
        f"{file} cannot be read as an image: {told}; remove it or put a whole image in its place"
    )


def corners() -> np.ndarray:
    """16 x 16 pixels, red at the upper left and blue at the upper right, else grey."""
    array = np.full((16, 16, 3), 128, np.uint8)
    array[:8, :8] = (255, 0, 0)
    array[:8, 8:] = (0, 0, 255)
    return array


# How an upright image is stored under each orientation of EXIF.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_photographs_are_turned_as_exif_says(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](corners())))
    exif = Image.Exif()
    exif[0x0112] = orientation
    png = saved(tmp_path, image, "a.png", exif=exif)
    assert np.array_equal(seen(png, 16), corners())
    jpeg = saved(tmp_path, image, "a.jpg", exif=exif, quality=95, subsampling=0)
    difference = seen(jpeg, 16).astype(int) - corners()
    assert np.abs(difference).mean() < 6


def test_the_size_is_that_of_the_turned_photograph(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert size_of(saved(tmp_path, Image.new("RGB", (40, 30)), "a.jpg", exif=exif)) == (30, 40)
    assert size_of(saved(tmp_path, Image.new("RGB", (40, 30)), "b.jpg")) == (40, 30)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK"])
def test_an_image_of_any_mode_has_its_colours(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (8, 8), "white").convert(mode)
    file = saved(tmp_path, image, "a.tif")
    assert (seen(file, 8) == 255).all()
    colour = Image.new("RGB", (8, 8), (204, 51, 102) if mode not in "1LA" else (0, 0, 0))
    file = saved(tmp_path, colour.convert(mode), "b.tif")
    assert np.abs(seen(file, 8).astype(int) - np.asarray(colour)).max() <= 16


def test_cmyk_in_a_jpeg_is_not_inverted(tmp_path: Path) -> None:
    file = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "red.jpg", quality=95)
    red, green, blue = seen(file, 8).reshape(-1, 3).mean(axis=0)
    assert red > 240
    assert max(green, blue) < 20


def test_what_is_transparent_is_white_whatever_colour_it_hides(tmp_path: Path) -> None:
    array = np.zeros((4, 4, 4), np.uint8)
    array[:2] = (10, 20, 30, 255)
    array[2:] = (255, 0, 0, 0)
    expected = np.full((4, 4, 3), 255, np.uint8)
    expected[:2] = (10, 20, 30)
    image = Image.fromarray(array)
    assert np.array_equal(seen(saved(tmp_path, image, "a.png"), 4), expected)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 10, 20, 30])
    palette.paste(1, (0, 0, 4, 2))
    file = saved(tmp_path, palette, "b.png", transparency=0)
    assert np.array_equal(seen(file, 4), expected)


def test_sizes_have_a_square_in_common() -> None:
    assert common_size([(32, 32)] * 5) == (32, True)
    assert common_size([(40, 30)] * 5) == (30, False)
    assert common_size([(32, 32), (32, 32), (64, 48)]) == (32, False)
    assert common_size([(500, 375)] * 5) == (224, False)
    assert common_size([(300, 300)] * 5) == (300, True)


def test_an_image_that_keeps_its_size_is_not_cropped(tmp_path: Path) -> None:
    file = saved(tmp_path, Image.fromarray(corners()), "a.png")
    assert np.array_equal(decode(file, 16, kept=True).transpose(1, 2, 0), corners())
    assert not np.array_equal(decode(file, 16).transpose(1, 2, 0), corners())
    assert decode(file, 8, kept=True).shape == (3, 8, 8)
    assert decode(file, 8, torch.rand(5)).shape == (3, 8, 8)
