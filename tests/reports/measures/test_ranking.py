"""Which of two configurations needs less, on figures made by hand."""

import math

import pandas as pd
import pytest

from paceline.reports.measures.ranking import (
    Configuration,
    compare,
    compare_losses,
    rank,
    seeds_needed,
)


def trials(steps: list[float], every: float, seeds: list[int] | None = None) -> pd.DataFrame:
    """Trials that reached the target at these steps and were evaluated every so many."""
    to_target = pd.Series(steps, dtype=float)
    return pd.DataFrame(
        {
            "seed": seeds or list(range(len(steps))),
            "steps_to_target": to_target,
            "steps_before_target": to_target - every,
        }
    )


def named(**groups: pd.DataFrame) -> list[Configuration]:
    return [(name, 2, rows) for name, rows in groups.items()]


def test_a_difference_below_one_evaluation_interval_is_none() -> None:
    # One scale is evaluated every 13 steps and the other every 25, so 26 and 25 are the same.
    found = compare(trials([26, 26], 13), trials([25, 25], 25), "steps_to_target")
    assert found is not None
    assert found.found.differs
    assert not found.differs
    assert str(found) == "1.04 [1.04, 1.04], within one evaluation"


def test_a_difference_of_one_evaluation_interval_is_one() -> None:
    found = compare(trials([300, 300], 100), trials([200, 200], 100), "steps_to_target")
    assert found is not None
    assert found.differs
    assert str(found) == "1.5 [1.5, 1.5]"


def test_the_resolution_is_told_of_one_seed_too() -> None:
    found = compare(trials([26], 13), trials([25], 25), "steps_to_target")
    assert str(found) == "1.04 (one seed), within one evaluation"


def test_a_figure_that_is_lacking_or_not_above_zero_is_not_compared() -> None:
    there = trials([20, 20], 10)
    assert compare(trials([20, math.nan], 10), there, "steps_to_target") is None
    assert compare(there, trials([0, 20], 10), "steps_to_target") is None
    assert compare(trials([], 10), there, "steps_to_target") is None


def test_trials_are_paired_by_their_seeds_whatever_their_order() -> None:
    of = trials([400, 100, 200], 1, seeds=[2, 0, 1])
    found = compare(of, trials([50, 100, 200], 1), "steps_to_target")
    assert str(found) == "2 [2, 2]"  # 100/50, 200/100, 400/200


def test_losses_below_zero_are_compared_by_their_difference() -> None:
    low = pd.DataFrame({"seed": [0, 1], "best_loss": [-2.0, -1.0]})
    high = pd.DataFrame({"seed": [0, 1], "best_loss": [-1.5, -0.5]})
    found = compare_losses(low, high, "best_loss")
    assert found is not None
    assert found.differs
    assert str(found) == "-0.5000 [-0.5000, -0.5000]"
    same = compare_losses(low, low, "best_loss")
    assert same is not None
    assert not same.differs


def test_a_winner_needs_less_than_every_other() -> None:
    groups = named(slow=trials([900, 910], 1), fast=trials([100, 101], 1))
    ranking = rank(groups, "steps_to_target")
    assert ranking.winner
    assert [name for name, _, _ in ranking.least] == ["fast"]
    assert ranking.next is not None
    assert ranking.next[0] == "slow"


def test_one_that_cannot_be_told_apart_takes_the_win_away_wherever_it_stands() -> None:
    noisy = trials([20, 900, 100], 1)  # its mean is the greatest
    groups = named(next=trials([200, 202, 201], 1), noisy=noisy, first=trials([100, 101, 102], 1))
    ranking = rank(groups, "steps_to_target")
    assert not ranking.winner
    assert [name for name, _, _ in ranking.least] == ["first", "noisy"]
    assert ranking.next is not None
    assert ranking.next[0] == "noisy"


def test_one_seed_and_one_configuration_have_no_winner() -> None:
    assert not rank(named(a=trials([10], 1), b=trials([90], 1)), "steps_to_target").winner
    alone = rank(named(a=trials([10, 11], 1)), "steps_to_target")
    assert (alone.winner, alone.next, alone.lead) == (False, None, None)


def test_the_seeds_needed_follow_from_the_spread_of_the_log_ratios() -> None:
    ratios = [math.exp(0.1 + 0.1), math.exp(0.1 - 0.1)]  # mean 0.1, deviation 0.1414
    of, against = trials([100 * r for r in ratios], 0), trials([100, 100], 0)
    # Student's t of 9 degrees of freedom: 2.262 * 0.1414 / sqrt(10) = 0.1012; of 10: 2.228 -> 0.0950.
    assert seeds_needed(of, against, "steps_to_target") == 11
    unpaired = trials([100, 100], 0, seeds=[5, 6])
    assert seeds_needed(of, unpaired, "steps_to_target") == 11
    assert seeds_needed(against, against, "steps_to_target") is None
    assert seeds_needed(of.iloc[:1], against.iloc[:1], "steps_to_target") is None


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_losses_of_any_size_can_be_compared(scale: float) -> None:
    low = pd.DataFrame({"seed": [0, 1, 2], "loss": [1.0 * scale, 1.1 * scale, 1.05 * scale]})
    high = low.assign(loss=low["loss"] + 2 * scale)
    found = compare_losses(low, high, "loss")
    assert found is not None
    assert found.found.value == pytest.approx(-2 * scale)
    assert found.differs


def test_the_coarser_of_two_intervals_between_evaluations_decides() -> None:
    found = compare(trials([45, 45], 13), trials([25, 25], 25), "steps_to_target")
    assert found is not None
    assert not found.resolved


def test_the_interval_of_a_difference_runs_from_low_to_high() -> None:
    low = pd.DataFrame({"seed": [0, 1, 2], "loss": [1.0, 1.2, 0.9]})
    high = pd.DataFrame({"seed": [0, 1, 2], "loss": [2.0, 2.1, 2.2]})
    found = compare_losses(low, high, "loss")
    assert found is not None
    assert found.found.low < found.found.value < found.found.high < 0
