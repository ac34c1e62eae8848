"""Images as a data module: the digits, the published sets, and whole runs."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import Plugin
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.spec.settings import Budget, Target
from paceline.benchmarks.spec.shipped import shipped
from paceline.benchmarks.spec.workload import Workload
from paceline.datasets.images import WANTED, Images
from paceline.datasets.reading.cache import DataError
from tests.checkout import Checkout
from tests.images import loaded, message
from tests.ranks import Plan, run_ranks, train


def test_a_path_without_images_is_named(tmp_path):
    assert message(tmp_path) == f"{tmp_path} holds no images in a layout that is known; {WANTED}"
    missing = tmp_path / "missing"
    assert message(missing) == f"cannot read {missing}: No such file or directory; {WANTED}"


def test_an_argument_out_of_range_is_named():
    with pytest.raises(DataError, match=r"^crop_size is 0; it must be at least 1$"):
        Images(crop_size=0)


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
    ("folder", "name", "validated", "first", "mean", "deviation"),
    [
        # MNIST's classes have 5,421 to 6,742 images, of which tenths are rounded.
        ("mnist", "MNIST", 5_999, 5, 0.1307, 0.3081),
        ("fashion-mnist", "Fashion-MNIST", 6_000, 9, 0.2860, 0.3530),
    ],
)
def test_the_published_sets_are_known_by_their_checksums(
    folder, name, validated, first, mean, deviation
):
    place = os.environ.get("PACELINE_DATA")
    if place is None:
        pytest.skip("PACELINE_DATA does not name the folder of real data")
    data = loaded(Path(place) / folder)
    description = data.description
    assert description["name"] == name
    parts = [description[f"{part}_rows"] for part in ("train", "validation", "test")]
    assert parts == [60_000 - validated, validated, 10_000]
    assert (data.channels, data.image_size, data.classes) == (1, 28, 10)
    batch = data.train_dataset.__getitems__(range(60_000 - validated))
    assert batch.label[0] == first
    assert batch.label.bincount().sum() == 60_000 - validated
    assert float(batch.image.min()) == pytest.approx(-mean / deviation, abs=1e-3)
    assert float(batch.image.max()) == pytest.approx((1 - mean) / deviation, abs=1e-3)


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
    checkout = Checkout(
        tmp_path, yaml.safe_dump({**benchmark, "algorithms": algorithms}, sort_keys=False)
    )
    done = checkout.call(
        *("run", str(checkout.yaml), f"--report={checkout.pdf}", "--scale.workers=[2]"),
        *("--workload.budget.examples=6400", "--workload.budget.evaluations=2"),
        *(f"--algorithms.{label}.workers=[2]" for label in compared),
        *("--algorithms.codistillation.burn_in=10", "--algorithms.codistillation.period=10"),
        "--algorithms.model_averaging.partition.kind=labels",
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "tiny: scikit-learn digits" in done.stdout
    rows = checkout.rows()
    assert [(row["algorithm"], row["status"]) for row in rows] == [
        (label, "FINISHED") for label in compared
    ]
    for row in rows:
        assert float(row["final_loss"]) < math.log(10)  # that of a constant prediction
        assert float(row["final_metric"]) > 0.2
        assert float(row["bytes_sent_per_worker"]) == float(row["expected_bytes_per_worker"]) > 0
    assert checkout.pdf.read_bytes().startswith(b"%PDF")
