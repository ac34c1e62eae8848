"""The intervals and tests of the reports, on distributions whose truth is known."""

import numpy as np
import pytest

from paceline.benchmarks.cli.main import main
from paceline.reports.measures.coverage import TAILS, churn_found, coverage, tables

NORMAL = TAILS["log-normal"]


@pytest.mark.parametrize("n", range(2, 11))
def test_intervals_of_pairs_cover_as_often_as_they_say(n: int) -> None:
    assert coverage(n, NORMAL, 20_000, np.random.default_rng(n)) == pytest.approx(0.95, abs=0.006)


@pytest.mark.parametrize("n", range(2, 11))
@pytest.mark.parametrize("wider", [1.0, 2.0])
def test_intervals_without_pairs_cover_at_least_as_often(n: int, wider: float) -> None:
    """Welch's are too wide for two seeds and for three, and right from four on."""
    found = coverage(n, NORMAL, 20_000, np.random.default_rng(n), paired=False, wider=wider)
    assert 0.944 < found < (0.985 if n < 4 else 0.962)


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_pairs_cover_under_other_distributions_too(tails: str, n: int) -> None:
    assert 0.944 < coverage(n, TAILS[tails], 20_000, np.random.default_rng(n)) < 0.975


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("uneven", [0.0, 0.3])
@pytest.mark.parametrize("paired", [True, False])
def test_equal_churns_are_called_different_in_one_case_of_twenty_at_most(
    n: int, uneven: float, paired: bool
) -> None:
    found = churn_found(n, uneven, 5_000, np.random.default_rng(n), paired)
    assert 0.002 < found < 0.057  # 5 % and two standard errors


def test_unequal_churns_are_found_with_five_seeds() -> None:
    assert churn_found(5, 0.3, 2_000, np.random.default_rng(0), true_ratio=0.5) > 0.85


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("paired", [True, False])
def test_a_table_of_equal_figures_is_without_a_false_alarm_in_nineteen_cases_of_twenty(
    n: int, paired: bool
) -> None:
    alarm, power = tables(n, 12, 1.0, 0.01, 4_000, np.random.default_rng(n), paired)
    assert alarm + power < 0.06
    assert alarm > (0.03 if paired else 0.01)


def test_what_is_a_twentieth_slower_is_found_in_a_table() -> None:
    assert tables(5, 4, 1.05, 0.01, 1_000, np.random.default_rng(0))[1] > 0.9


def test_the_command_prints_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "coverage", "--simulations", "100"]) == 0
    printed = capsys.readouterr().out
    assert all(title in printed for title in ("that cover", "found to differ", "corrected by Holm"))
