"""The test part of the data: what is reported of it, and that it decides nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import ConfigError, Plugin
from paceline.benchmarks.spec.suitable import prepared
from paceline.benchmarks.trials.rank import build
from tests.models import WithTestPart
from tests.ranks import Plan, run_ranks, train
from tests.workload import LinearRule, Tower, draw, trial

TIMES = ("train_seconds", "compute_seconds")


def with_part(described: Trial, name: str = "WithTestPart", **data: Any) -> Trial:
    part = Plugin(f"tests.models:{name}", data)
    return replace(described, workload=replace(described.workload, data=part))


def results(described: Trial) -> list[Any]:
    return run_ranks(described.workers, train, described, Plan())


def loss_of(weights: np.ndarray) -> float:
    """The loss of a tower on the test part, computed in this process alone."""
    tower, rows = Tower(LinearRule.features), draw(WithTestPart.TEST_ROWS, 3)
    torch.nn.utils.vector_to_parameters(torch.tensor(weights), tower.parameters())
    return tower.loss(tower(rows), rows.y).item()


@pytest.mark.parametrize("algorithm", ["sync_sgd", "model_averaging", "codistillation"])
def test_the_loss_is_that_of_the_evaluated_model_on_any_algorithm(algorithm: str) -> None:
    ranks = results(with_part(trial(2, 6, 50, algorithm=algorithm)))
    losses = [point["validation_loss"] for point in ranks[0]["points"]]
    assert losses[-1] == min(losses), "the last model is the best, so its weights are at hand"
    expected = np.mean([loss_of(rank["evaluated"]) for rank in ranks])
    for rank in ranks:
        assert rank["tested"]["test_loss"] == pytest.approx(expected, rel=1e-5)
        assert 0.5 < rank["tested"]["test_metric"] <= 1


def test_it_is_that_of_the_model_with_the_lowest_validation_loss() -> None:
    """Twenty rows are learnt by heart. A training that ends at the lowest loss has the same figures."""
    whole = trial(2, 5, 400, evaluations=20, lr=2.0)
    ranks = results(with_part(whole, rows=20))
    losses = [point["validation_loss"] for point in ranks[0]["points"]]
    best = int(np.argmin(losses))
    assert best < len(losses) - 1
    share = (best + 1) / len(losses)
    budget = replace(whole.workload.budget, examples=round(4000 * share), evaluations=best + 1)
    shorter = replace(whole, workload=replace(whole.workload, budget=budget))
    stopped = results(with_part(shorter, rows=20))
    assert stopped[0]["points"][-1]["validation_loss"] == losses[best]
    assert ranks[0]["tested"] == stopped[0]["tested"]


def test_other_test_labels_change_nothing_else() -> None:
    right, flipped = (results(with_part(trial(2, 6, 30), flipped=flip)) for flip in (False, True))
    assert flipped[0]["tested"]["test_loss"] > right[0]["tested"]["test_loss"]
    for one, other in zip(right, flipped, strict=True):
        assert one["weights_sha256"] == other["weights_sha256"]
        for a, b in zip(one["points"], other["points"], strict=True):
            assert {k: v for k, v in a.items() if k not in TIMES} == {
                k: v for k, v in b.items() if k not in TIMES
            }


def test_a_test_row_without_a_loss_ends_no_trial() -> None:
    (alone,) = results(with_part(trial(1, 6, 20), nan=True))
    assert np.isnan(alone["tested"]["test_loss"])
    assert np.isfinite(alone["points"][-1]["validation_loss"])


def test_data_without_a_test_part_have_no_such_figures() -> None:
    assert results(trial(1, 6, 5))[0]["tested"] == {}


def parts(described: Trial, report: Any) -> list[list[float]]:
    """The first feature of every row of each part, as a rank has them."""
    built = build(described, 0)
    loaders: list[Any] = [built.training, built.validation, built.test]
    return [loader.dataset.rows.x[:, 0].tolist() for loader in loaders]


def test_no_row_is_in_two_parts_though_every_setup_divides_them_anew() -> None:
    ((trained, validated, tested),) = run_ranks(1, parts, with_part(trial(1), "Resplit"))
    assert (len(trained), len(validated), len(tested)) == (100, 25, 25)
    assert len({*trained, *validated, *tested}) == 150


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", r"Resplit: test_dataloader\(\) has no examples"),
        ("stream", r"Resplit: test_dataloader\(\) has to give a DataLoader over a dataset with"),
    ],
)
def test_a_test_part_that_cannot_be_dealt_is_told_in_one_line(kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        prepared([with_part(trial(2), "Resplit", kind=kind)])
    assert "\n" not in str(error.value)


def test_a_loader_may_say_that_there_is_no_test_part() -> None:
    prepared([with_part(trial(2), "Resplit", kind="none")])
