"""What ranks are given to train and to evaluate on, and what they say of rows without a loss."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import ConfigError, Plugin
from paceline.benchmarks.spec.suitable import prepared
from paceline.benchmarks.trials.rank import build
from paceline.lightning_modules.backend import randomness
from paceline.lightning_modules.backend.launch import RankFailed
from paceline.lightning_modules.backend.task import loss_weight
from tests.models import Drawn, Weighted
from tests.ranks import Plan, run_ranks, train
from tests.workload import VALIDATION_ROWS, LinearRule, Tower, draw, trial

STEPS = 20


def on_drawn_rows(workers: int, model: str = "Tower", seed: int = 0, **data: Any) -> Trial:
    place = model if model == "Tower" else f"tests.models:{model}"
    described = trial(workers, 6, STEPS, model=place, seed=seed)
    return replace(
        described, workload=replace(described.workload, data=Plugin("tests.models:Drawn", data))
    )


def results(described: Trial) -> list[Any]:
    return run_ranks(described.workers, train, described, Plan())


# Random numbers


def draws(described: Trial, report: Any) -> tuple[list[float], list[float]]:
    """The labels that this rank validates on, and what its first examples are moved by."""
    built = build(described, int(os.environ["RANK"]))
    data = built.data
    assert isinstance(data, Drawn)
    moved = [built.training.dataset[i].x[0].item() - data.train.x[i, 0].item() for i in range(3)]
    return data.validation.x[:, 0].tolist(), moved


@pytest.mark.parametrize("source", ["random", "numpy", "torch"])
def test_the_split_is_one_and_the_augmentation_differs_between_ranks(source: str) -> None:
    described = on_drawn_rows(2, source=source)
    first, again = (run_ranks(2, draws, described) for _ in range(2))
    (split, moved), (other_split, otherwise_moved) = first
    assert split == other_split
    assert moved != otherwise_moved
    assert again == first
    another_seed = run_ranks(1, draws, replace(described, workers=1, seed=1))[0]
    assert another_seed[0] == split
    assert another_seed[1] != moved


def test_a_repetition_with_augmentation_is_bitwise_equal() -> None:
    first, again = (results(on_drawn_rows(2, source="numpy")) for _ in range(2))
    assert np.array_equal(again[0]["weights"], first[0]["weights"])


def test_a_split_that_nobody_can_seed_is_refused() -> None:
    with pytest.raises(RankFailed, match="rank 1 has other validation examples than rank 0"):
        results(on_drawn_rows(2, source="entropy"))


def hashes(report: Any) -> int:
    return hash("a string")


def test_every_rank_of_every_command_goes_over_a_set_in_the_same_order() -> None:
    command = [sys.executable, "-c", "print(hash('a string'))"]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    alone = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run_ranks(2, hashes) == [int(alone.stdout)] * 2


# Rows without a loss


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_row_that_has_no_loss_ends_the_trial_on_any_number_of_workers(workers: int) -> None:
    expected = "Undefined: validation loss is NaN at row 7 of the validation examples$"
    with pytest.raises(RankFailed, match=expected):
        results(on_drawn_rows(workers, nan=[7, 30]))


def test_rows_that_all_have_no_loss_end_the_trial() -> None:
    with pytest.raises(RankFailed, match="validation loss is NaN at row 0 of the"):
        results(on_drawn_rows(2, nan=list(range(50))))


def test_an_undefined_metric_ends_the_trial() -> None:
    with pytest.raises(RankFailed, match="validation metric is undefined: No negative samples"):
        results(on_drawn_rows(2, "Ranked", one_class=True))


# Labels


def test_labels_reach_the_metric_as_they_are() -> None:
    """The mean absolute error against labels of 0.25 and 0.75."""
    ranks = results(on_drawn_rows(2, "Regression", soft=True))
    data = Drawn(soft=True)
    with randomness.seeded(randomness.OF_DATA):
        data.setup("fit")
    tower, rows = Tower(LinearRule.features), data.validation
    torch.nn.utils.vector_to_parameters(torch.tensor(ranks[0]["weights"]), tower.parameters())
    error = (torch.sigmoid(tower(rows)) - rows.y).abs().mean().item()
    assert set(rows.y.tolist()) == {0.25, 0.75}
    assert ranks[0]["points"][-1]["validation_metric"] == pytest.approx(error, rel=1e-5)


# Weighted means


@pytest.mark.parametrize("zero", [1.0, 0.0])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_weighted_loss_is_that_of_all_rows_together_on_any_number_of_workers(
    workers: int, zero: float
) -> None:
    described = trial(workers, 30, STEPS, model="tests.models:Weighted", zero=zero)
    rank = results(described)[0]
    model, rows = Weighted(LinearRule.features, zero=zero), draw(VALIDATION_ROWS, 2)
    torch.nn.utils.vector_to_parameters(torch.tensor(rank["weights"]), model.parameters())
    expected = model.loss(model(rows), rows.y).item()
    assert rank["points"][-1]["validation_loss"] == pytest.approx(expected, rel=1e-6)


def test_rows_that_are_ignored_have_no_loss_to_be_finite() -> None:
    """A batch may hold only rows of the class that is ignored, whose mean is no number."""
    model, ignored = Weighted(LinearRule.features, zero=0.0), torch.zeros(1)
    assert loss_weight(model, ignored) == 0
    assert model.loss(torch.zeros(1), ignored).isnan()
    assert loss_weight(Tower(LinearRule.features), ignored) == 1


def test_a_weighted_loss_that_does_not_say_so_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"the mean of their losses is .*; define loss_weight"):
        prepared([trial(model="tests.models:Unstated")])
    prepared([trial(model="tests.models:Weighted")])
    prepared([trial(model="tests.models:Weighted", zero=0.0)])
