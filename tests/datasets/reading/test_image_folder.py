"""Folders of photographs: read, cropped, and what a broken one is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.photograph import centre_box, random_box
from tests.images import cut, loaded, message, pixels


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes, each with 4 images to train on and 2 to validate on, of 40 x 30 pixels."""
    folder = tmp_path / "pets"
    for part, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(np.full((30, 40, 3), 100 + 50 * label, np.uint8))
                image.save(folder / part / name / f"{number}.png")
            (folder / part / name / "notes.txt").touch()
    return folder


def test_a_folder_of_class_folders_is_read(photographs):
    data = loaded(photographs, crop_size=16)
    assert data.description == {
        "name": "pets",
        "synthetic": False,
        "train_rows": 8,
        "validation_rows": 4,
        "channels": 3,
        "image_size": 16,
        "classes": 2,
    }
    for dataset, rows in ((data.train_dataset, 8), (data.validation_dataset, 4)):
        batch = dataset.__getitems__(np.arange(rows))
        assert batch.image.shape == (rows, 3, 16, 16)
        assert batch.label.tolist() == [0] * (rows // 2) + [1] * (rows // 2)
        red = torch.where(batch.label == 0, 100.0, 150.0)[:, None, None].expand(-1, 16, 16)
        torch.testing.assert_close(batch.image[:, 0], (red - 123.675) / 58.395)


def test_the_fingerprint_of_a_folder_follows_its_files(photographs):
    before = loaded(photographs).fingerprint
    assert loaded(photographs).fingerprint == before
    Image.new("RGB", (9, 9)).save(photographs / "val" / "cat" / "1.png")
    assert loaded(photographs).fingerprint != before


def test_a_random_part_lies_in_the_image_and_has_the_published_sizes():
    torch.manual_seed(0)
    for place in torch.rand(500, 5):
        left, upper, right, lower = random_box(400, 300, place)
        assert 0 <= left < right <= 400
        assert 0 <= upper < lower <= 300
        assert (right - left) * (lower - upper) <= 400 * 300
    small = random_box(400, 300, torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0]))
    assert (small[2] - small[0]) * (small[3] - small[1]) == pytest.approx(0.08 * 400 * 300)
    assert centre_box(400, 300) == pytest.approx((68.75, 18.75, 331.25, 281.25))


def test_a_file_that_is_no_image_is_found_before_training(photographs):
    file = photographs / "train" / "dog" / "3.png"
    file.write_bytes(b"<html>not found</html>")
    assert message(photographs) == (
        f"{file} is not an image of a format that Pillow reads; remove it or put a whole image in"
        " its place"
    )


def test_a_truncated_image_is_named_when_it_is_read(photographs):
    file = photographs / "train" / "cat" / "0.jpg"
    Image.fromarray(pixels(0, 64, 64, 3)).save(file)
    cut(file, end=-1000)
    data = loaded(photographs)
    with pytest.raises(DataError) as raised:
        data.train_dataset[0]
    assert str(raised.value) == (
        f"{file} cannot be read as an image: image file is truncated (82 bytes not processed);"
        " remove it or put a whole image in its place"
    )


def test_a_folder_that_lacks_something_is_named(photographs):
    (photographs / "val" / "bird").mkdir()
    Image.new("RGB", (9, 9)).save(photographs / "val" / "bird" / "1.png")
    assert message(photographs) == (
        f"{photographs}/val/bird is a class with no folder in train; add or remove it"
    )
    (photographs / "val").rename(photographs / "old")
    (photographs / "val").mkdir()
    assert message(photographs) == (
        f"{photographs}/val has no class folders with images; put each class in one of its own"
    )
