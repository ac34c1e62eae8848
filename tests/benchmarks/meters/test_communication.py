"""How communication grows: exponents by hand, and in real ranks what the formulas say."""

from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from paceline.benchmarks.meters.communication import COSTS, HASH_SIZES, exponent, measure, trials
from paceline.benchmarks.trials.display import TerminalDisplay


def test_the_exponent_of_a_power_is_that_power() -> None:
    sizes = pd.Series([2, 4, 8])
    assert exponent(sizes, 7 * sizes**1.5) == pytest.approx(1.5)
    # 2 (N - 1) at 2, 4 and 8 workers: the slope between the ends, as they are evenly spaced.
    assert exponent(sizes, 2 * (sizes - 1)) == pytest.approx(1.4037, abs=1e-4)


@pytest.mark.parametrize("label", COSTS)
def test_two_workers_send_in_an_exchange_what_the_formula_says(label: str) -> None:
    (trial,) = (trial for trial in trials(HASH_SIZES[0], 2) if trial.label == label)
    found = measure(trial, TerminalDisplay(Console(file=StringIO())))
    assert (found["p"], found["n"]) == (38_817, 2)
    assert found["sent"] == pytest.approx(found["computed"], rel=1e-3)
    # Downpour's two shards are not equally large, and its workers need not take equally many steps.
    if label != "downpour":
        assert found["sent"] == pytest.approx(found["expected"], rel=1e-3)
