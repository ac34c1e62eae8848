"""What is observed about the machine while a trial runs, and the order in which trials run."""

import subprocess
import sys
from dataclasses import replace

import pytest

from paceline.benchmarks.trials.conditions import Conditions
from paceline.benchmarks.trials.runner import in_random_order
from tests.report_store import benchmark

BURN = "import time\nwhile time.process_time() < 1: pass"


def test_the_work_of_other_programs_is_counted_and_that_of_the_ranks_is_not() -> None:
    conditions = Conditions()
    subprocess.run([sys.executable, "-S", "-c", BURN], check=True)
    facts, later = conditions.facts(ranks_seconds=0.0), conditions.facts(ranks_seconds=0.5)
    others = facts["others_cores"] * facts["seconds"]
    assert others > 0.9, "the other program took a second"
    assert later["others_cores"] * later["seconds"] < others - 0.2
    assert conditions.facts(ranks_seconds=1e6)["others_cores"] == 0.0


def test_trials_run_in_an_order_of_their_own_for_each_seed() -> None:
    plan = benchmark("many", {"baseline": [1], "sync_sgd": [2, 4], "admm": [1, 2, 4]}, [2, 0, 1])
    trials = {str(n): trial for n, trial in enumerate(plan.trials())}
    order = list(in_random_order(trials).values())
    assert [trial.seed for trial in order] == [trial.seed for trial in plan.trials()]
    by_seed = [[replace(t, seed=0) for t in order if t.seed == seed] for seed in (0, 1, 2)]
    assert by_seed[0] != by_seed[1] != by_seed[2]
    numbers = sorted(trials, key=lambda n: ([2, 0, 1].index(trials[n].seed), -int(n)))
    others = {n: trials[n] for n in numbers}
    assert list(in_random_order(others)) == list(in_random_order(trials))


@pytest.mark.parametrize("seed", [0, 3])
def test_the_order_of_a_seed_does_not_depend_on_what_has_finished(seed: int) -> None:
    plan = benchmark("many", {"baseline": [1], "sync_sgd": [2, 4], "admm": [1, 2, 4]}, [seed])
    trials = {str(n): trial for n, trial in enumerate(plan.trials())}
    left = {number: trial for number, trial in trials.items() if number not in ("1", "3")}
    assert list(in_random_order(left)) == [n for n in in_random_order(trials) if n in left]
