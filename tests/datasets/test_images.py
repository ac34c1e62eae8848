"""Images: readers on files written here, what a broken one is told, the models, and a whole run."""

import csv
import gzip
import io
import math
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import cross_entropy

from paceline.benchmarks.spec.benchmark import Trial, Workload
from paceline.benchmarks.spec.plugin import Plugin
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.spec.settings import Budget, Target
from paceline.benchmarks.spec.shipped import shipped
from paceline.datasets.images import WANTED, ImageBatch, Images
from paceline.datasets.reading import image_set
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.image_folder import centre_box, random_box
from paceline.lightning_modules.models.image_classifier import ImageClassifier
from tests import ROOT
from tests.workload import Plan, run_ranks, train

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def loaded(path: Path | None, **arguments: object) -> Images:
    data = Images(None if path is None else str(path), **arguments)
    data.prepare_data()
    data.setup()
    return data


def message(path: Path) -> str:
    """What a person is told who gives `path` as data, in one line."""
    with pytest.raises(DataError) as raised:
        loaded(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- idx ------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """`array` of bytes in the idx format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


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
        "train_rows": 30,
        "validation_rows": 10,
        "channels": 1,
        "image_size": 6,
        "classes": 3,
    }
    batch = plain.validation_dataset.__getitems__(range(10))
    assert batch.label.dtype == torch.int64
    assert batch.label.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    trained_on = pixels(30, 30, 6, 6).astype(float)
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


def cut(file: Path, begin: bytes = b"", end: int | None = None) -> None:
    file.write_bytes(begin + file.read_bytes()[len(begin) : end])


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


# --- CIFAR ----------------------------------------------------------------------------------------


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
    assert (description["train_rows"], description["validation_rows"]) == (50, 20)
    assert (data.channels, data.image_size, data.classes) == (3, 32, 10)
    batch = data.train_dataset.__getitems__([0, 49])
    assert batch.label.tolist() == [0, 9]
    stored = np.concatenate([pixels(n, 10, 3072) for n in range(1, 6)]).reshape(50, 3, 32, 32)
    mean, deviation = stored.mean(axis=(0, 2, 3)), stored.std(axis=(0, 2, 3))
    expected = (stored[[0, 49]] - mean[:, None, None]) / deviation[:, None, None]
    np.testing.assert_allclose(batch.image, expected, rtol=1e-4, atol=1e-5)
    assert loaded(archived(cifar_folder), augment=False).fingerprint == data.fingerprint
    assert loaded(cifar_folder).fingerprint != data.fingerprint


def test_cifar_100_has_fine_labels(tmp_path):
    (tmp_path / "train").write_bytes(cifar_batch(30, 0, b"fine_labels"))
    (tmp_path / "test").write_bytes(cifar_batch(10, 1, b"fine_labels"))
    assert loaded(tmp_path).description["train_rows"] == 30


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
        (cifar_batch(10, 2)[:100], "UnpicklingError: pickle data was truncated"),
        (pickle.dumps({b"data": [1, 2]}), "ValueError: cannot reshape array of size 2 into shape"),
        (b"", "EOFError: Ran out of input"),
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
    still = loaded(cifar_folder, augment=False).train_dataset.__getitems__(range(50)).image
    torch.manual_seed(3)
    moved = data.train_dataset.__getitems__(range(50)).image
    torch.manual_seed(3)
    assert torch.equal(moved, data.train_dataset.__getitems__(range(50)).image)
    wide = torch.nn.functional.pad(still, [4] * 4).unfold(2, 32, 1).unfold(3, 32, 1)
    places = set()
    for image, crops in zip(moved, wide, strict=True):  # crops: [3, 9, 9, 32, 32]
        found = [
            (crops == one[:, None, None]).all(dim=(0, 3, 4)) for one in (image, image.flip(-1))
        ]
        (place,) = torch.stack(found).nonzero().tolist()
        places.add(tuple(place))
    assert [len({place[axis] for place in places}) for axis in range(3)] == [2, 9, 9]


# --- folders of photographs -----------------------------------------------------------------------


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
    assert message(photographs) == (
        f"{photographs}/val/bird is a class with no folder in train; add or remove it"
    )
    (photographs / "val").rename(photographs / "test")
    assert message(photographs) == (
        f"cannot read {photographs}: No such file or directory; give a folder with train/CLASS/ and"
        " val/CLASS/"
    )
    (photographs / "val").mkdir()
    assert message(photographs) == (
        f"{photographs}/val has no class folders with images; put each class in one of its own"
    )


def test_a_path_without_images_is_named(tmp_path):
    assert message(tmp_path) == f"{tmp_path} holds no images in a layout that is known; {WANTED}"
    missing = tmp_path / "missing"
    assert message(missing) == f"cannot read {missing}: No such file or directory; {WANTED}"


def test_an_argument_out_of_range_is_named():
    with pytest.raises(DataError, match=r"^crop_size is 0; it must be at least 1$"):
        Images(crop_size=0)


# --- the embedded digits and the real sets --------------------------------------------------------


def test_the_default_is_real_digits_and_says_so():
    data = loaded(None)
    assert data.description == {
        "name": "scikit-learn digits",
        "synthetic": False,
        "train_rows": 1437,
        "validation_rows": 360,
        "channels": 1,
        "image_size": 8,
        "classes": 10,
    }
    image = data.train_dataset.__getitems__(range(1437)).image
    assert float(image.mean()) == pytest.approx(0, abs=1e-4)
    assert float(image.std()) == pytest.approx(1, abs=1e-3)
    (batch,) = [batch for i, batch in enumerate(data.val_dataloader()) if i == 5]
    assert batch.image.shape == (360 - 5 * 64, 1, 8, 8)
    assert data.evaluation_batch == 2**14


@pytest.mark.parametrize(
    ("folder", "name", "first", "mean", "deviation"),
    [("mnist", "MNIST", 5, 0.1307, 0.3081), ("fashion-mnist", "Fashion-MNIST", 9, 0.2860, 0.3530)],
)
def test_the_published_sets_are_known_by_their_checksums(folder, name, first, mean, deviation):
    place = os.environ.get("PACELINE_DATA")
    if place is None:
        pytest.skip("PACELINE_DATA does not name the folder of real data")
    data = loaded(Path(place) / folder)
    description = data.description
    assert description["name"] == name
    assert (description["train_rows"], description["validation_rows"]) == (60_000, 10_000)
    assert (data.channels, data.image_size, data.classes) == (1, 28, 10)
    batch = data.train_dataset.__getitems__(range(60_000))
    assert batch.label[0] == first
    assert batch.label.bincount().sum() == 60_000
    assert float(batch.image.min()) == pytest.approx(-mean / deviation, abs=1e-3)
    assert float(batch.image.max()) == pytest.approx((1 - mean) / deviation, abs=1e-3)


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "channels", "size", "classes", "parameters"),
    [
        ("2nn", 1, 28, 10, 199_210),  # McMahan et al. (2016), section 3
        ("cnn", 1, 28, 10, 1_663_370),  # likewise
        ("resnet18", 3, 224, 1000, 11_689_512),  # He et al. (2015), as is commonly counted
        ("resnet18", 3, 32, 10, 11_173_962),
    ],
)
def test_models_have_the_published_number_of_parameters(model, channels, size, classes, parameters):
    task = ImageClassifier(channels, size, classes, model)
    assert sum(p.numel() for p in task.parameters()) == parameters


@pytest.mark.parametrize("model", ["2nn", "cnn", "resnet18"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_models_fit_every_size_of_image(model, channels, size):
    task = ImageClassifier(channels, size, 7, model)
    assert task(ImageBatch(torch.randn(2, channels, size, size), torch.zeros(2))).shape == (2, 7)


def test_the_first_stage_of_resnet_sees_56_pixels_of_224_and_all_of_32():
    for size, seen in ((224, 56), (32, 32)):
        stages = ImageClassifier(3, size, 10, "resnet18").network
        stem = stages[:4] if size == 224 else stages[:3]
        assert stem(torch.randn(1, 3, size, size)).shape == (1, 64, seen, seen)


def test_the_loss_takes_classes_and_probabilities_alike():
    task = ImageClassifier(1, 8, 3, "2nn")
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    assert task.loss(logits, labels) == cross_entropy(logits, labels)
    soft = torch.eye(3)[labels]
    torch.testing.assert_close(task.loss(logits, soft), task.loss(logits, labels))
    by_hand = -(task.probabilities(logits) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(task.loss(logits, task.probabilities(logits)), by_hand)


def test_probabilities_come_back_through_their_inverse():
    task = ImageClassifier(1, 8, 3, "2nn")
    probabilities = torch.randn(5, 3).softmax(1)
    torch.testing.assert_close(task.probabilities(task.inverse(probabilities)), probabilities)
    assert task.inverse(torch.tensor([[0.0, 1.0, 0.0]])).isfinite().all()


def test_accuracy_counts_every_example_alike():
    metric = ImageClassifier(1, 8, 3, "2nn").metric()
    predicted = torch.eye(3)[[0, 0, 0, 1]]
    metric.update(predicted, torch.tensor([0, 0, 1, 2]).int())
    assert metric.compute() == 0.5


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("sgd", 0.2), ("momentum", 0.03), ("adam", 0.002), ("adagrad", 0.01)]
)
@pytest.mark.parametrize("model", ["2nn", "cnn"])
def test_every_optimizer_brings_the_loss_of_a_batch_down(model, optimizer, lr):
    torch.manual_seed(0)
    batch = loaded(None).train_dataset.__getitems__(range(32))
    task = ImageClassifier(1, 8, 10, model, optimizer, lr)
    steps = task.configure_optimizer(task.parameters())
    losses = []
    for _ in range(30):
        steps.zero_grad()
        losses.append(task.loss(task(batch), batch.label))
        losses[-1].backward()
        steps.step()
    assert losses[-1] < 0.7 * losses[0]


def test_a_classifier_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"^a classifier needs two classes at least, not 1$"):
        ImageClassifier(1, 8, 1)
    with pytest.raises(ValueError, match=r"^cnn needs images of at least 4 pixels, not 3$"):
        ImageClassifier(1, 3, 10)


# --- whole runs -----------------------------------------------------------------------------------


def trial(algorithm: str, **task: object) -> Trial:
    return Trial(
        benchmark="test",
        workload=Workload(
            name="digits",
            data=Plugin("paceline.datasets.images:Images", {}),
            task=Plugin("paceline.lightning_modules.models.image_classifier:ImageClassifier", task),
            target=Target(0.5),
            budget=Budget(examples=64, evaluations=1),
        ),
        label=algorithm,
        algorithm=algorithm,
        hyper_parameters={},
        workers=2,
        batch_size=16,
        zero_stage=0,
        threads=1,
        accelerator="cpu",
        seed=0,
    )


def test_ranks_train_resnet_with_its_running_means(tmp_path):
    first, second = run_ranks(2, train, trial("sync_sgd", model="resnet18", lr=0.01), Plan())
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["parameters"] == 11_172_810
    assert np.isfinite(first["points"][-1]["validation_loss"])


def test_the_shipped_benchmark_compares_every_algorithm_on_1_2_and_4_workers():
    trials = load_benchmark("fashion-mnist", []).trials()
    replicas = {"downpour", "admm", "model_averaging"}
    pairs = {"sync_sgd", "codistillation", "independent", "label_smoothing"}
    assert {(trial.label, trial.workers) for trial in trials} == {
        ("baseline", 1),
        *((label, workers) for label in replicas for workers in (1, 2, 4)),
        *((label, workers) for label in pairs for workers in (2, 4)),
    }


def test_the_shipped_workload_runs_from_the_command_line_to_its_report(tmp_path):
    """On the digits, with three of its algorithms, one of them on replicas of unlike labels."""
    benchmark = yaml.safe_load(shipped()["fashion-mnist"].read_text())
    compared = ("sync_sgd", "model_averaging", "codistillation")
    algorithms = {label: benchmark["algorithms"][label] for label in compared}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({**benchmark, "algorithms": algorithms}, sort_keys=False))
    store, report = f"--store=sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "small.pdf"
    done = called(
        *(store, "run", str(file), f"--report={report}", "--scale.workers=[2]"),
        *("--workload.budget.examples=6400", "--workload.budget.evaluations=2"),
        *(f"--algorithms.{label}.workers=[2]" for label in compared),
        *("--algorithms.codistillation.burn_in=10", "--algorithms.codistillation.period=10"),
        "--algorithms.model_averaging.partition.kind=labels",
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "small: scikit-learn digits" in done.stdout
    table = called(store, "results", str(file), "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["algorithm"], row["status"]) for row in rows] == [
        (label, "FINISHED") for label in compared
    ]
    for row in rows:
        assert float(row["final_loss"]) < math.log(10)  # that of a constant prediction
        assert float(row["final_metric"]) > 0.2
        assert float(row["bytes_sent_per_worker"]) == float(row["expected_bytes_per_worker"]) > 0
    assert report.read_bytes().startswith(b"%PDF")


def called(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
