"""Idx files: read plain and gzipped, and what a broken one is told."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from paceline.datasets.reading import image_set
from tests.images import cut, idx, loaded, message, pixels

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture
def digits_folder(tmp_path: Path) -> Path:
    """30 images to train on and 10 to test on, of 6 x 6 pixels in 3 classes."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for part, rows in (("train", 30), ("t10k", 10)):
        labels = (np.arange(rows) % 3).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels(rows, rows, 6, 6)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def compress(folder: Path) -> None:
    for file in list(folder.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()


def test_idx_files_are_read_plain_and_gzipped_as_the_same_data(digits_folder):
    plain = loaded(digits_folder)
    assert plain.description == {
        "name": "tiny",
        "synthetic": False,
        "train_rows": 27,
        "validation_rows": 3,
        "test_rows": 10,
        "channels": 1,
        "image_size": 6,
        "classes": 3,
    }
    (batch,) = plain.test_dataloader()
    assert batch.label.dtype == torch.int64
    assert batch.label.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    draws = np.random.default_rng(0)  # the labels are 0, 1, 2, 0, 1, 2 and so on
    held_out = [draws.permutation(np.arange(label, 30, 3))[0] for label in range(3)]
    trained_on = np.delete(pixels(30, 30, 6, 6), held_out, axis=0).astype(float)
    expected = (pixels(10, 10, 6, 6)[:, None] - trained_on.mean()) / trained_on.std()
    np.testing.assert_allclose(batch.image, expected, rtol=1e-4, atol=1e-5)
    compress(digits_folder)
    assert loaded(digits_folder).fingerprint == plain.fingerprint


def test_one_pixel_makes_another_fingerprint(digits_folder):
    before = loaded(digits_folder).fingerprint
    file = digits_folder / TEST_IMAGES
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert loaded(digits_folder).fingerprint != before


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda f: cut(f / TRAIN_IMAGES, b"\x89PNG"),
            f"{{}}/{TRAIN_IMAGES} is not an idx file of bytes in 3 dimensions: it begins with"
            " 0x89504e47, not 0x00000803; fetch it again",
        ),
        (
            lambda f: cut(f / TRAIN_LABELS, end=6),
            f"{{}}/{TRAIN_LABELS} ends within its header of 8 bytes; fetch it again",
        ),
        (
            lambda f: cut(f / TRAIN_IMAGES, end=-7),
            f"{{}}/{TRAIN_IMAGES} promises 30 x 6 x 6 values and holds 1073; fetch it again",
        ),
        (
            lambda f: (f / TEST_LABELS).unlink(),
            f"{{}} has no {TEST_LABELS} and no {TEST_LABELS}.gz; put the set's four files there",
        ),
        (
            lambda f: (f / TEST_LABELS).write_bytes(idx(np.zeros(9, np.uint8))),
            f"{{}} has 10 images in {TEST_IMAGES} and 9 labels in {TEST_LABELS}; give files of one"
            " set",
        ),
        (
            lambda f: (f / TEST_IMAGES).write_bytes(idx(pixels(0, 10, 8, 8))),
            "tiny: training images are 6 x 6 and test images 8 x 8 pixels; give files of one set",
        ),
        (
            lambda f: [
                (f / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels(0, rows, 6, 8)))
                for part, rows in (("train", 30), ("t10k", 10))
            ],
            "tiny: images are 6 x 8 pixels; crop them to squares",
        ),
    ],
)
def test_a_broken_idx_file_is_named(
    digits_folder: Path, damage: Callable[[Path], object], told: str
) -> None:
    damage(digits_folder)
    assert message(digits_folder) == told.format(digits_folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            lambda whole: whole[:-20],
            "Compressed file ended before the end-of-stream marker was reached",
        ),
        (lambda whole: b"<html>", "Not a gzipped file (b'<h')"),
    ],
)
def test_a_broken_gzip_file_is_named(
    digits_folder: Path, content: Callable[[bytes], bytes], reason: str
) -> None:
    compress(digits_folder)
    file = digits_folder / f"{TRAIN_IMAGES}.gz"
    file.write_bytes(content(file.read_bytes()))
    assert message(digits_folder) == f"{file} is not a whole gzip file: {reason}; fetch it again"


def test_a_file_that_is_not_that_of_the_set_beside_it_is_named(digits_folder, monkeypatch):
    """As the published checksums are of large files, those of the files written here stand in."""
    contents = {file.name: file.read_bytes() for file in digits_folder.iterdir()}
    sums = {name: image_set.hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setitem(image_set.PUBLISHED, "MNIST", sums)
    assert loaded(digits_folder).description["name"] == "MNIST"
    file = digits_folder / TEST_LABELS
    file.write_bytes(idx(np.ones(10, np.uint8)))
    found = image_set.hashlib.md5(file.read_bytes()).hexdigest()
    assert message(digits_folder) == (
        f"{file}: its content has MD5 {found} and that of MNIST beside it {sums[TEST_LABELS]};"
        " fetch it again"
    )
