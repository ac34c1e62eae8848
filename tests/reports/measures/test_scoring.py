"""Scores of curves worked out by hand."""

import math
from typing import Any

import pandas as pd
import pytest

from paceline.reports.measures.scoring import CURVE, disturbed, oversubscribed, score


def curve(*losses: float) -> pd.DataFrame:
    """A curve evaluated every 10 steps of 8 examples, a step taking 0.5 s and sending 100 bytes."""
    rows = [
        [10 * i, 80 * i, 5.0 * i, 4.0 * i, 1000.0 * i, 20.0 * i, 1.0, loss, 0.5 + 0.1 * i]
        for i, loss in enumerate(losses, start=1)
    ]
    return pd.DataFrame(rows, columns=CURVE)


def test_the_target_counts_as_reached_at_the_first_evaluation_at_or_below_it() -> None:
    assert score(curve(0.9, 0.5, 0.4), target_loss=0.5) == {
        "target_reached": 1.0,
        "steps_to_target": 20.0,
        "examples_to_target": 160.0,
        "time_to_target_s": 10.0,
        "bytes_to_target": 2000.0,
        "steps_before_target": 10.0,
        "examples_before_target": 80.0,
        "time_before_target_s": 5.0,
        "bytes_before_target": 1000.0,
        "examples_per_s": 16.0,
        "bytes_sent_per_worker": 3000.0,
        "messages_per_worker": 60.0,
        "best_loss": 0.4,
        "best_step": 30.0,
        "final_loss": 0.4,
        "final_metric": pytest.approx(0.8),
    }


def test_a_target_reached_and_lost_again_stays_reached() -> None:
    figures = score(curve(0.4, 0.9), target_loss=0.5)
    assert (figures["target_reached"], figures["steps_to_target"]) == (1.0, 10.0)
    assert figures["final_loss"] == 0.9


def test_before_the_first_evaluation_nothing_had_been_spent() -> None:
    figures = score(curve(0.5, 0.4), target_loss=0.5)
    assert (figures["steps_before_target"], figures["steps_to_target"]) == (0.0, 10.0)


def test_a_modelled_time_is_scored_like_a_measured_one() -> None:
    figures = score(curve(0.9, 0.8, 0.5).assign(modelled_s=[1.0, 2.5, 4.0]), target_loss=0.5)
    assert figures["modelled_time_to_target_s"] == 4.0
    assert figures["modelled_time_before_target_s"] == 2.5


@pytest.mark.parametrize("losses", [(0.9, 0.4), (-0.1, -0.5)])
def test_without_a_target_none_is_reached_and_none_is_missed(losses: tuple[float, ...]) -> None:
    figures = score(curve(*losses), target_loss=None)
    assert not [name for name in figures if "target" in name]
    assert figures["final_loss"] == losses[-1]


def test_a_target_below_zero_is_a_target() -> None:
    assert score(curve(0.1, -0.2, -0.6), target_loss=-0.5)["steps_to_target"] == 30.0


def test_the_best_loss_is_the_least_and_its_step_the_first_that_had_it() -> None:
    figures = score(curve(0.9, 0.4, 0.4, 0.7), target_loss=None)
    assert (figures["best_loss"], figures["best_step"], figures["final_loss"]) == (0.4, 20.0, 0.7)
    assert score(curve(math.nan, 0.4, math.nan), None)["best_step"] == 20.0
    assert "best_loss" not in score(curve(math.nan), None)


def test_a_target_not_reached_has_no_cost() -> None:
    figures = score(curve(0.9, 0.50001), target_loss=0.5)
    assert figures["target_reached"] == 0.0
    assert not [name for name in figures if name.endswith(("to_target", "target_s"))]


def test_evaluations_are_taken_in_the_order_of_their_steps() -> None:
    shuffled = curve(0.9, 0.5, 0.4).iloc[[2, 0, 1]]
    assert score(shuffled, 0.5) == score(curve(0.9, 0.5, 0.4), 0.5)


def test_what_was_not_measured_is_absent_rather_than_not_a_number() -> None:
    figures = score(curve(0.9).assign(validation_metric=math.nan), 0.5)
    assert "final_metric" not in figures
    assert all(math.isfinite(value) for value in figures.values())


def test_a_trial_without_an_evaluation_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="without an evaluation"):
        score(curve(), 0.5)


@pytest.mark.parametrize(
    ("workers", "threads", "device", "crowded"),
    [
        (2, 1, "cpu", False),
        (4, 1, "cpu", False),
        (5, 1, "cpu", True),
        (2, 3, "cpu", True),
        (2, 8, "cuda", False),
        (3, 1, "cuda", True),
    ],
)
def test_ranks_are_too_many_where_their_threads_outnumber_the_cores_or_they_the_gpus(
    workers: int, threads: int, device: str, crowded: bool
) -> None:
    record: dict[str, Any] = {
        "trial": {"workers": workers, "threads": threads},
        "environment": {"hardware": {"cores": 4, "gpus": ["a", "b"]}},
        "result": {"device": device},
    }
    assert oversubscribed(record) is crowded


@pytest.mark.parametrize(("cores", "crowded"), [(2, False), (1, True)])
def test_ranks_are_too_many_for_a_node_by_the_cores_of_each(cores: int, crowded: bool) -> None:
    record: dict[str, Any] = {
        "trial": {"workers": 4, "threads": 1, "nodes": 2},
        "environment": {
            "hardware": {"cores": 2, "gpus": []},
            "others": {"n2": {"cores": cores, "gpus": []}, "n3": {"cores": 1, "gpus": []}},
        },
        "result": {"device": "cpu", "ranks": [{"node": "n1"}] * 2 + [{"node": "n2"}] * 2},
    }
    assert oversubscribed(record) is crowded


@pytest.mark.parametrize(
    ("workers", "others", "found"),
    [(2, 2.1, False), (2, 2.11, True), (4, 0.1, False), (4, 0.11, True), (8, 0.11, True)],
)
def test_other_programs_disturb_once_they_take_cores_that_the_ranks_need(
    workers: int, others: float, found: bool
) -> None:
    record: dict[str, Any] = {
        "trial": {"workers": workers, "threads": 1},
        "environment": {"hardware": {"cores": 4}},
        "conditions": {"others_cores": others},
    }
    assert disturbed(record) is found
    assert not disturbed({name: record[name] for name in ("trial", "environment")})
