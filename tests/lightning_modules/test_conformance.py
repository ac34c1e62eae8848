"""What every algorithm has to do, whichever file it is in: a new one is picked up by its place."""

import inspect
import math
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from paceline.benchmarks.spec.settings import Fault
from paceline.lightning_modules import find_algorithms
from paceline.lightning_modules.backend.launch import RankFailed
from paceline.reports.measures.scoring import CURVE
from tests import ROOT
from tests.cases import ALGORITHMS, CASES, STEPS, Case, cases_of
from tests.lacking import lacking
from tests.ranks import Plan, run_ranks, train
from tests.workload import draw

pytestmark = pytest.mark.timeout(150)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_runs_at_some_scale(name: str) -> None:
    assert cases_of(name)


def test_the_files_of_the_folder_are_all_found() -> None:
    folder = Path(inspect.getfile(find_algorithms)).parent
    files = {path for path in folder.glob("*.py") if path.stem != "__init__"}
    assert {Path(inspect.getfile(algorithm)) for algorithm in ALGORITHMS.values()} == files


@cache
def run(case: Case) -> tuple[list[Any], list[Any]]:
    """What each rank of a trial returned, and of one that went on from its first evaluation."""
    with TemporaryDirectory() as folder:
        whole = run_ranks(case.workers, train, case.trial(), Plan(save_to=Path(folder)))
        resumed = run_ranks(case.workers, train, case.trial(), Plan(resume_from=Path(folder)))
    return whole, resumed


@pytest.fixture(params=CASES, ids=str, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


def test_it_learns(case: Case) -> None:
    rate = draw(50, 2).y.mean().item()
    constant = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    losses = [point["validation_loss"] for point in run(case)[0][0]["points"]]
    assert losses[-1] < 0.8 * constant
    assert losses[-1] < losses[0]


def test_it_logs_every_figure_at_every_evaluation(case: Case) -> None:
    whole, _ = run(case)
    points = whole[0]["points"]
    assert [point["step"] for point in points] == [STEPS // 2, STEPS]
    for point in points:
        assert set(point) >= {"step", *CURVE}
        assert all(math.isfinite(value) for value in point.values())
        assert point["examples"] == point["step"] * 6 * case.workers
    assert all(rank["points"] == points for rank in whole)


def test_it_sends_what_it_says_it_sends(case: Case) -> None:
    whole, _ = run(case)
    expected = np.mean([rank["expected_bytes_per_worker"] for rank in whole])
    sent = whole[0]["points"][-1]["bytes_sent_per_worker"]
    assert sent == pytest.approx(expected, rel=0.01)
    if ALGORITHMS[case.algorithm].name not in ("independent", "baseline") and case.workers > 1:
        assert sent > 0


def test_it_resumes_with_the_same_weights(case: Case) -> None:
    whole, resumed = run(case)
    for before, after in zip(whole, resumed, strict=True):
        assert np.array_equal(after["initial"], before["saved"])
    first, last = resumed[0]["points"]
    assert first == whole[0]["points"][0]
    assert last["train_seconds"] > first["train_seconds"]
    if ALGORITHMS[case.algorithm].asynchronous and case.workers > 1:
        assert last["validation_loss"] < first["validation_loss"]
        return
    assert resumed[0]["resumed_at"] == [STEPS // 2]
    for name, value in whole[0]["points"][1].items():
        assert name.endswith("_seconds") or last[name] == value, name
    for before, after in zip(whole, resumed, strict=True):
        assert after["expected_bytes_per_worker"] == before["expected_bytes_per_worker"]
        assert np.array_equal(after["weights"], before["weights"])
        assert after["weights_sha256"] == before["weights_sha256"]


def test_the_ranks_that_evaluate_together_evaluate_one_model(case: Case) -> None:
    whole, _ = run(case)
    layout = case.trial().layout
    for rank, other in enumerate(whole):
        first = (
            0
            if ALGORITHMS[case.algorithm].one_model
            else layout.members(layout.replica_of(rank))[0]
        )
        assert other["digests"] == whole[first]["digests"]
        assert len(set(other["digests"])) == 2
        assert other["weights_sha256"] == whole[0]["weights_sha256"]


@pytest.mark.parametrize("name", [n for n, a in ALGORITHMS.items() if not a.asynchronous])
def test_two_runs_are_bitwise_equal_and_another_seed_differs(name: str) -> None:
    case = cases_of(name)[-1]
    first = run(case)[0]
    again, other = (
        run_ranks(case.workers, train, case.trial(seed=seed), Plan()) for seed in (0, 1)
    )
    for rank in range(case.workers):
        assert np.array_equal(again[rank]["weights"], first[rank]["weights"])
        assert again[rank]["weights_sha256"] == first[rank]["weights_sha256"]
        assert not np.array_equal(other[rank]["weights"], first[rank]["weights"])


@pytest.mark.timeout(300)
def test_it_sends_over_the_kernel_what_its_ledger_says() -> None:
    """In a private network namespace, nothing but the trials uses the loopback interface."""
    namespace = ["unshare", "-Urn"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode != 0:
        lacking("no network namespace can be made here (unshare -Urn is refused)")
    counted = subprocess.run(
        [*namespace, sys.executable, "-m", "tests.kernel_bytes"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert counted.returncode == 0, counted.stderr
    lines = [line.split()[1:] for line in counted.stdout.splitlines() if line.startswith("counted")]
    assert [name for name, *_ in lines] == [str(case) for case in CASES if case.workers == 4]
    for name, ledger, kernel in lines:
        # Rendezvous, metrics and tickets, which are not the algorithm's, are some 0.2 MB in all.
        slack = max(0.02 * float(ledger), 250_000)
        assert float(ledger) <= float(kernel) <= float(ledger) + slack, name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_killed_rank_ends_the_trial_with_its_reason(name: str) -> None:
    case = next(case for case in reversed(cases_of(name)) if case.zero_stage == 0)
    rank = case.workers - 1
    faulty = replace(case.trial(), fault=Fault("kill", rank, step=15))
    with pytest.raises(RankFailed, match=f"^rank {rank} was killed by SIGKILL$"):
        run_ranks(case.workers, train, faulty, Plan())


@pytest.mark.parametrize("name", ["sync_sgd", "downpour"])
def test_a_rank_that_raises_ends_the_trial_with_its_reason(name: str) -> None:
    faulty = replace(Case(name, 2).trial(), fault=Fault("raise", 1, step=15))
    message = "^rank 1 raised InjectedFault: the fault asked for at step 15$"
    with pytest.raises(RankFailed, match=message):
        run_ranks(2, train, faulty, Plan())


def test_a_slow_rank_holds_up_synchronous_sgd_more_than_downpour() -> None:
    """A factor of ten leaves sync SGD a tenth of its throughput and Downpour more than half."""
    kept = {}
    for name in ("sync_sgd", "downpour"):
        # Enough arithmetic that a step is not mostly Lightning's.
        healthy = Case(name, 2).trial(width=20_000, lr=0.001)
        slow = replace(healthy, fault=Fault("slow", 1, factor=10.0))
        seconds, steps = [], []
        for each in (healthy, slow):
            ranks = run_ranks(2, train, each, Plan())
            seconds.append(ranks[0]["points"][-1]["train_seconds"])
            steps.append([rank["steps"] for rank in ranks])
        kept[name] = seconds[0] / seconds[1]
        if name == "sync_sgd":
            assert steps[1] == [STEPS, STEPS]
        else:
            assert sum(steps[1]) == 2 * STEPS
            assert steps[1][1] < steps[1][0] / 2
    assert kept["downpour"] > 1.5 * kept["sync_sgd"]
