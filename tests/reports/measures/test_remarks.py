"""What is remarked on a trial."""

import math
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from paceline.benchmarks.spec.benchmark import Trial
from paceline.reports.figures.pareto import pareto
from paceline.reports.measures.groups import NothingToDraw, ranked
from paceline.reports.measures.remarks import (
    DISTURBED,
    FEW_STEPS,
    MEANING,
    OVERFITTED,
    SILENT,
    UNRANKED,
    USELESS,
    remarked,
    remarks,
)
from paceline.reports.measures.results import Results
from tests.report_store import benchmark, fill
from tests.told import given

FINE = {"bytes_sent_per_worker": 10.0, "best_loss": 0.4, "best_step": 100.0, "final_loss": 0.4}


@pytest.mark.parametrize(
    ("figures", "workers", "steps", "found"),
    [
        ({}, 2, 100, []),
        ({"bytes_sent_per_worker": 0.0}, 1, 100, []),
        ({"bytes_sent_per_worker": 0.0}, 2, 100, [SILENT]),
        ({}, 2, 20, []),
        ({}, 2, 19, [FEW_STEPS]),
        ({"best_loss": 0.6, "final_loss": 0.6}, 2, 100, []),
        ({"best_loss": 0.61, "final_loss": 0.61}, 2, 100, [USELESS]),
        ({"best_step": 74.0, "final_loss": 0.5}, 2, 100, [OVERFITTED]),
        ({"best_step": 75.0, "final_loss": 0.5}, 2, 100, []),
        ({"best_step": 10.0, "final_loss": 0.403}, 2, 100, []),  # a flat end is no rise
        ({"best_step": 10.0, "best_loss": -2.0, "final_loss": -1.0}, 2, 100, [OVERFITTED]),
    ],
)
def test_each_remark_has_its_bound(
    figures: dict[str, float], workers: int, steps: float, found: list[str]
) -> None:
    data = {"constant_log_loss": 0.6}
    assert remarks(FINE | figures, workers, steps, evaluations=20, data=data) == found


def test_a_loss_is_not_compared_with_a_constant_nobody_knows() -> None:
    figures = FINE | {"best_loss": 5.0, "final_loss": 5.0}
    assert remarks(figures, 2, 100, evaluations=20, data={}) == []


def test_a_trial_beside_other_programs_is_marked() -> None:
    assert remarks(FINE, 2, 100, evaluations=20, data={}, disturbed=True) == [DISTURBED]
    assert DISTURBED not in UNRANKED, "its losses and bytes are as good as any"


def test_losses_that_are_not_known_are_not_remarked_on() -> None:
    figures = {"bytes_sent_per_worker": 10.0, "final_loss": math.nan}
    assert remarks(figures, 2, 100, evaluations=20, data={"constant_log_loss": 0.6}) == []


def silent(trial: Trial, point: dict[str, float]) -> dict[str, float]:
    sends = trial.label == "sync_sgd"
    return point | ({} if sends else {"bytes_sent_per_worker": 0.0})


def test_who_never_exchanged_anything_wins_nothing(client: MlflowClient) -> None:
    plan = benchmark("silent", {"sync_sgd": [2], "independent": [2], "baseline": [1]}, [0, 1])
    results = fill(client, plan, lambda _: [0.7, 0.45], own=silent)
    assert [(a, n) for a, n, _ in ranked(results)] == [("sync_sgd", 2), ("baseline", 1)]
    content = given(results)
    (bytes_told,) = [text for text in content["answer"] if "bytes" in text]
    assert "synchronous SGD on 2 workers" in bytes_told
    assert "independent" not in " ".join(content["answer"])
    assert [row[0] for row in content["summary"]["rows"]][1] == "independent replicas ¹"
    assert content["remarks"] == [f"¹ Exchanged nothing: {MEANING[SILENT]}. Not ranked."]
    assert "exchanged nothing" in [row["remark"] for row in content["trials"]["rows"]]
    (axes,) = pareto(results).axes
    assert {text.get_text() for text in axes.texts} - {""} == {"synchronous SGD, 2", "baseline, 1"}


@pytest.fixture(scope="module")
def one_step(client: MlflowClient) -> Results:
    """One step a trial, where 20 evaluations were asked for; all reached the target."""

    def own(_: Trial, point: dict[str, float]) -> dict[str, Any]:
        return point | {"step": 1}

    plan = benchmark("one_step", {"baseline": [1], "sync_sgd": [2]}, [0, 1])
    return fill(client, plan, lambda _: [0.45], own=own)


def test_of_a_budget_too_short_nobody_is_ranked(one_step: Results) -> None:
    assert remarked(one_step.trials) == [FEW_STEPS]
    assert ranked(one_step) == []
    content = given(one_step)
    assert content["answer"][:2] == [
        "No configuration that can be ranked reached the target of 0.5 with every seed.",
        "No configuration can be ranked; the remarks and the trials say why.",
    ]
    assert all(row[0].endswith("²") for row in content["summary"]["rows"])
    with pytest.raises(NothingToDraw, match="may be ranked"):
        pareto(one_step)


def test_models_that_overfit_are_ranked_by_their_best_loss(client: MlflowClient) -> None:
    plan = benchmark("overfits", {"baseline": [1], "sync_sgd": [2]}, [0, 1])

    def losses(trial: Trial) -> list[float]:
        learns = trial.label == "sync_sgd"
        return [0.55, 0.51 if learns else 0.53, 0.6, 0.9 if learns else 0.6]

    results = fill(client, plan, losses)
    content = given(results)
    lowest = content["answer"][1]
    assert lowest.startswith(
        "Lowest validation log loss (nats): synchronous SGD on 2 workers (0.5100). Its difference to"
        " the next, baseline on 1 worker (0.5300), is -0.0200 [-0.0200, -0.0200]"
    )
    assert content["summary"]["rows"][1][7:10] == ["0.5100", "200", "0.9000"]
    assert remarked(results.trials) == [OVERFITTED]
