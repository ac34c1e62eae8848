"""CIFAR: its pickled batches and its archive, and what a broken one is told."""

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.images import loaded, message, pixels


def cifar_batch(rows: int, seed: int, key: bytes = b"labels") -> bytes:
    """A batch as the published ones were pickled: by Python 2, with its strings and NumPy's names."""
    labels = [i % 10 for i in range(rows)]
    content = {b"data": pixels(seed, rows, 3072), key: labels, b"batch_label": b"a batch"}
    pickled = pickle.dumps(content, protocol=2)
    for written, by_python_2 in {
        b"numpy._core": b"numpy.core",
        b"X\2\0\0\0u1": b"U\2u1",
        b"X\1\0\0\0|": b"U\1|",
    }.items():
        assert written in pickled
        pickled = pickled.replace(written, by_python_2)
    return pickled


@pytest.fixture
def cifar_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(cifar_batch(10, number))
    (folder / "test_batch").write_bytes(cifar_batch(20, 6))
    return folder


def archived(folder: Path) -> Path:
    file = folder.parent / "cifar-10-python.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder, folder.name)
    return file


def test_cifar_10_is_read_from_its_folder_and_from_its_archive(cifar_folder):
    data = loaded(cifar_folder, augment=False)
    description = data.description
    parts = [description[f"{part}_rows"] for part in ("train", "validation", "test")]
    assert parts == [40, 10, 20]
    assert (data.channels, data.image_size, data.classes) == (3, 32, 10)
    stored = np.concatenate([pixels(n, 10, 3072) for n in range(1, 6)]).reshape(50, 3, 32, 32)
    train = data.train_dataset.__getitems__(range(40))
    validation = data.validation_dataset.__getitems__(range(10))
    labels = np.tile(np.arange(10), 5)
    # A tenth of the five images of a class is half an image, and at least one validates.
    draws = np.random.default_rng(0)
    held_out = np.sort([draws.permutation(np.flatnonzero(labels == n))[0] for n in range(10)])
    kept = np.setdiff1d(np.arange(50), held_out)
    assert train.label.tolist() == labels[kept].tolist()
    mean, deviation = stored[kept].mean(axis=(0, 2, 3)), stored[kept].std(axis=(0, 2, 3))
    for batch, rows in ((train, kept), (validation, held_out)):
        expected = (stored[rows] - mean[:, None, None]) / deviation[:, None, None]
        np.testing.assert_allclose(batch.image, expected, rtol=1e-4, atol=1e-5)
    assert loaded(archived(cifar_folder), augment=False).fingerprint == data.fingerprint
    assert loaded(cifar_folder).fingerprint != data.fingerprint


def test_cifar_100_has_fine_labels(tmp_path):
    (tmp_path / "train").write_bytes(cifar_batch(30, 0, b"fine_labels"))
    (tmp_path / "test").write_bytes(cifar_batch(10, 1, b"fine_labels"))
    description = loaded(tmp_path).description
    assert (description["train_rows"], description["test_rows"]) == (20, 10)


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            pickle.dumps({b"data": Runs()}),
            "UnpicklingError: it asks for posix.system, which no batch needs",
        ),
        (cifar_batch(10, 2)[:100], "UnpicklingError: it asks for numpy., which no batch needs"),
        (pickle.dumps({b"data": [1, 2]}), "ValueError: cannot reshape array of size 2 into shape"),
        (b"", "EOFError;"),
    ],
)
def test_a_broken_batch_is_named_and_runs_nothing(cifar_folder, content, told):
    file = cifar_folder / "data_batch_2"
    file.write_bytes(content)
    assert message(cifar_folder).startswith(f"{file} is not a batch of CIFAR: {told}")
    assert message(cifar_folder).endswith("; fetch it again")


def test_a_batch_without_its_labels_is_named(cifar_folder):
    file = cifar_folder / "data_batch_2"
    file.write_bytes(pickle.dumps({b"data": pixels(0, 2, 3072), b"labels": [0, 10]}, protocol=2))
    assert message(cifar_folder) == (
        f"{file} has not one label of 0 to 9 for each of 2 images; fetch it again"
    )


def test_a_missing_batch_is_named(cifar_folder):
    (cifar_folder / "data_batch_4").unlink()
    assert message(cifar_folder) == (
        f"{cifar_folder} has no batch data_batch_4, which CIFAR-10 has; unpack it again"
    )


def test_a_broken_archive_is_named(cifar_folder):
    archive = archived(cifar_folder)
    archive.write_bytes(archive.read_bytes()[:-1000])
    assert message(archive) == (
        f"{archive} is not a whole tar archive: Compressed file ended before the end-of-stream"
        " marker was reached; fetch it again"
    )


def test_training_images_are_shifted_and_mirrored_and_others_are_not(cifar_folder):
    data = loaded(cifar_folder)
    still = loaded(cifar_folder, augment=False).train_dataset.__getitems__(range(40)).image
    torch.manual_seed(3)
    moved = data.train_dataset.__getitems__(range(40)).image
    torch.manual_seed(3)
    assert torch.equal(moved, data.train_dataset.__getitems__(range(40)).image)
    wide = torch.nn.functional.pad(still, [4] * 4).unfold(2, 32, 1).unfold(3, 32, 1)
    places = set()
    for image, crops in zip(moved, wide, strict=True):  # crops: [3, 9, 9, 32, 32]
        found = [
            (crops == one[:, None, None]).all(dim=(0, 3, 4)) for one in (image, image.flip(-1))
        ]
        (place,) = torch.stack(found).nonzero().tolist()
        places.add(tuple(place))
    assert [len({place[axis] for place in places}) for axis in range(3)] == [2, 9, 9]
