"""Class folders as people have them: hidden, empty and nested ones, and the parts beside `train`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.images import loaded, message, pixels


def put(file: Path, size: tuple[int, int] = (32, 32), grey: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey,) * 3).save(file)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten cats and ten dogs to train on, two each to validate on."""
    folder = tmp_path / "pets"
    for name in ("cat", "dog"):
        for number in range(10):
            put(folder / "train" / name / f"{number}.png", grey=number)
        for number in range(2):
            put(folder / "val" / name / f"{number}.png", grey=100 + number)
    return folder


def test_hidden_and_empty_folders_are_no_classes(pets: Path, caplog: pytest.LogCaptureFixture):
    before = loaded(pets)
    for hidden in (".ipynb_checkpoints", "__MACOSX", ".thumbnails"):
        put(pets / "train" / hidden / "0.png")
        put(pets / "train" / "cat" / hidden / "0.png")
    put(pets / "train" / "cat" / "._0.png")
    (pets / "train" / "ant").mkdir()
    (pets / "train" / "zebra" / "deeper").mkdir(parents=True)
    (pets / "train" / "zebra" / "notes.txt").touch()
    (pets / "val" / "bird").mkdir()
    caplog.clear()
    data = loaded(pets)
    assert (data.classes, data.description["train_rows"]) == (2, 20)
    assert data.fingerprint == before.fingerprint
    names = f"{pets}/train/ant, {pets}/train/zebra, {pets}/val/bird"
    assert caplog.messages == [f"no classes, as they hold no images: {names}"]


def test_nested_pictures_are_found(pets: Path) -> None:
    put(pets / "train" / "cat" / "2024" / "01" / "1.jpg")
    put(pets / "train" / "bird" / "2024" / "1.JPG")
    (pets / "train" / "cat" / "again").symlink_to(pets / "train" / "cat")  # has no end
    (pets / "train" / "owl").symlink_to(pets / "train" / "dog")
    data = loaded(pets)
    assert data.classes == 4
    labels = data.train_dataset.__getitems__(range(32)).label
    assert labels.bincount().tolist() == [1, 11, 10, 10]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_folder_to_validate_on_has_any_of_its_names(pets: Path, name: str) -> None:
    before = loaded(pets)
    (pets / "val").rename(pets / name)
    assert loaded(pets).description == before.description


def test_two_folders_to_validate_on_are_refused(pets: Path) -> None:
    put(pets / "valid" / "cat" / "0.png")
    assert message(pets) == f"{pets}/val and {pets}/valid are both there; leave one to validate on"


def test_a_folder_test_beside_val_is_the_test_part(pets: Path) -> None:
    before = loaded(pets)
    for number in range(3):
        put(pets / "test" / "dog" / f"{number}.png", grey=200)
    data = loaded(pets)
    assert data.description == before.description | {"test_rows": 3}
    batches = list(data.test_dataloader())
    assert [batch.label.tolist() for batch in batches] == [[1, 1, 1]]
    assert float(batches[0].image[0, 0, 0, 0]) == pytest.approx((200 - 123.675) / 58.395)


def test_without_val_a_part_of_each_class_validates(pets: Path) -> None:
    (pets / "val").rename(pets / "test")
    data = loaded(pets, validation_fraction=0.2, augment=False)
    counts = [data.description[f"{part}_rows"] for part in ("train", "validation", "test")]
    assert counts == [16, 4, 4]
    for dataset, rows in ((data.train_dataset, 16), (data.validation_dataset, 4)):
        labels = dataset.__getitems__(range(rows)).label
        assert labels.bincount().tolist() == [rows // 2] * 2
    grey = [
        round(float(value) * 58.395 + 123.675)
        for dataset in (data.train_dataset, data.validation_dataset)
        for value in dataset.__getitems__(range(len(dataset))).image[:, 0, 0, 0]
    ]
    assert sorted(grey) == sorted([*range(10)] * 2)  # every picture in one part
    again = loaded(pets, validation_fraction=0.2, augment=False)
    assert again.fingerprint == data.fingerprint
    assert loaded(pets, validation_fraction=0.3, augment=False).fingerprint != data.fingerprint


def test_a_test_folder_without_classes_is_no_part(pets: Path) -> None:
    put(pets / "test" / "0001.png")
    data = loaded(pets)
    assert "test_rows" not in data.description
    assert data.test_dataloader() == []


def test_one_image_a_class_is_too_few_to_validate_on(tmp_path: Path) -> None:
    put(tmp_path / "train" / "cat" / "0.png")
    put(tmp_path / "train" / "dog" / "0.png")
    assert message(tmp_path) == (
        f"{tmp_path} has no val/CLASS/, and one image of each class in train is too few to validate"
        " on one; add that folder, or more images"
    )


def test_pictures_keep_their_size_unless_told(pets: Path) -> None:
    assert loaded(pets).image_size == 32
    cropped = loaded(pets, crop_size=16)
    assert cropped.image_size == 16
    put(pets / "train" / "cat" / "0.png", (500, 375))
    put(pets / "train" / "cat" / "1.png", (20, 20))
    data = loaded(pets)
    assert data.image_size == 32
    assert data.train_dataset.__getitems__([0, 1, 2]).image.shape == (3, 3, 32, 32)
    assert loaded(pets, crop_size=32).fingerprint == data.fingerprint


def test_pictures_of_one_square_are_not_cropped(pets: Path) -> None:
    array = pixels(0, 32, 32, 3)
    Image.fromarray(array).save(pets / "val" / "cat" / "0.png")
    image = loaded(pets).validation_dataset[0].image[0]
    values = image * torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    values += torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    np.testing.assert_allclose(values.permute(1, 2, 0), array, atol=1e-3)
    assert loaded(pets).fingerprint != loaded(pets, crop_size=32).fingerprint


def test_pictures_of_one_square_are_shifted_and_mirrored_to_train_on(pets: Path) -> None:
    Image.fromarray(pixels(0, 32, 32, 3)).save(pets / "train" / "cat" / "0.png")
    still = loaded(pets, augment=False).train_dataset[0].image[0]
    moved = loaded(pets).train_dataset.__getitems__([0] * 40).image
    wide = torch.nn.functional.pad(still, [4] * 4).unfold(1, 32, 1).unfold(2, 32, 1)
    for image in moved:
        found = [(wide == one[:, None, None]).all(dim=(0, 3, 4)) for one in (image, image.flip(-1))]
        assert torch.stack(found).sum() == 1
