"""Verdicts on claims, on results made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from paceline.benchmarks.spec.reading import load_benchmark
from paceline.reports.measures.claims import Claim, judge, read_claims
from paceline.reports.measures.results import Results

CLAIM = Claim(
    name="half the steps",
    source="a paper",
    statement="new needs half the steps of old",
    benchmark="b",
    measure="steps_to_target",
    of="new@4",
    against="old@2",
    at_most=0.6,
)


def results(new: list[float], old: list[float]) -> Results:
    """Steps to the target of two configurations, one trial a seed."""
    rows = [
        {
            "algorithm": algorithm,
            "workers": workers,
            "seed": seed,
            "status": "FINISHED",
            "steps_to_target": steps,
            "run_id": f"{algorithm} {seed}",
        }
        for algorithm, workers, figures in (("new", 4, new), ("old", 2, old))
        for seed, steps in enumerate(figures)
    ]
    columns = ["algorithm", "workers", "seed", "status", "steps_to_target", "run_id"]
    curves = pd.DataFrame(columns=["run_id", "seed", "step"])
    return Results("", {"name": "b"}, pd.DataFrame(rows, columns=columns), curves, {}, {})


@pytest.mark.parametrize(
    ("new", "old", "outcome"),
    [
        ([50, 55, 52], [100, 100, 100], "reproduced"),  # the interval ends at 0.55
        ([90, 85, 88], [100, 100, 100], "not reproduced"),  # it begins at 0.85
        ([50, 90, 70], [100, 100, 100], "inconclusive"),  # it holds 0.6
        ([50], [100], "inconclusive"),  # one seed
        ([], [100, 100], "not run"),
        ([50, 50], [], "not run"),
        ([50, np.nan], [100, 100], "not reproduced"),  # it did not get there
        ([50, 50], [100, np.nan], "inconclusive"),
    ],
)
def test_the_interval_decides(new: list[float], old: list[float], outcome: str) -> None:
    assert judge(CLAIM, results(new, old)).outcome == outcome


@pytest.mark.parametrize(
    ("bounds", "outcome"),
    [
        ({"at_least": 1.9}, "reproduced"),
        ({"at_least": 2.5}, "not reproduced"),
        ({"at_least": 1.9, "at_most": 2.2}, "reproduced"),
        ({"at_least": 1.0, "at_most": 1.5}, "not reproduced"),
        ({"at_least": 2.05, "at_most": 3.0}, "inconclusive"),
    ],
)
def test_a_bound_may_be_below_or_on_both_sides(bounds: dict[str, Any], outcome: str) -> None:
    claim = replace(CLAIM, **({"at_least": 0.0, "at_most": np.inf} | bounds))
    assert judge(claim, results([200, 210], [100, 100])).outcome == outcome


def test_what_missed_the_target_needs_at_least_nobody_knows_what() -> None:
    claim = replace(CLAIM, at_least=0.7, at_most=np.inf)
    assert judge(claim, results([50, np.nan], [100, 100])).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("spent", "at_least", "outcome"),
    [
        (150, 1.4, "reproduced"),  # 1.5 and more
        (150, 1.6, "inconclusive"),  # what it would have needed may be 1.6 times as much
    ],
)
def test_what_missed_the_target_needs_more_than_it_had_spent(
    spent: int, at_least: float, outcome: str
) -> None:
    found = results([np.nan, np.nan], [100, 100])
    ends = [{"run_id": f"new {s}", "seed": s, "step": spent} for s in range(2)]
    found = replace(found, curves=pd.DataFrame(ends))
    verdict = judge(replace(CLAIM, at_least=at_least, at_most=np.inf), found)
    assert verdict.outcome == outcome
    assert verdict.reason == "new@4 did not get there: more than 1.5 [1.5, 1.5]"


def test_a_claim_may_be_against_a_number() -> None:
    claim = replace(CLAIM, against=100, at_most=0.6)
    assert judge(claim, results([50, 55], [])).outcome == "reproduced"


def test_another_benchmark_does_not_test_it() -> None:
    verdict = judge(replace(CLAIM, benchmark="c"), results([50, 50], [100, 100]))
    assert (verdict.outcome, verdict.reason) == ("not run", "tested by the benchmark c")


def test_churn_is_between_seeds_and_may_be_held_against_an_ensembles() -> None:
    found = results([1, 1, 1], [1, 1, 1])
    for seed in range(3):
        alone = np.full(10, 0.5 + 0.01 * seed, dtype=np.float32)
        found.predictions[f"new {seed}"] = {"model": alone}
        found.predictions[f"old {seed}"] = {"model": alone, "ensemble": 0.5 + 2 * (alone - 0.5)}
    claim = replace(CLAIM, measure="churn", against_measure="ensemble_churn")
    verdict = judge(claim, found)
    assert verdict.outcome == "reproduced"
    assert verdict.ratio is not None
    assert verdict.ratio.value == pytest.approx(0.5, rel=1e-4)
    assert verdict.ratio.repetitions == 3  # pairs of seeds


def test_a_figure_of_the_curve_counts_at_its_end_or_by_its_fall() -> None:
    found = results([1, 1], [])
    curve = {"step": [10, 20], "residual": [8.0, 2.0]}
    curves = [pd.DataFrame({**curve, "run_id": f"new {s}", "seed": s}) for s in range(2)]
    found = replace(found, curves=pd.concat(curves))
    last = judge(replace(CLAIM, measure="residual", against=1, at_most=2.0), found)
    fall = judge(replace(CLAIM, measure="fall of residual", against=1, at_most=0.3), found)
    assert last.ratio is not None
    assert fall.ratio is not None
    assert (last.ratio.value, fall.ratio.value) == (pytest.approx(2.0), pytest.approx(0.25))


def test_the_shipped_claims_compare_what_their_benchmark_runs() -> None:
    claims = read_claims()
    assert len({claim.name for claim in claims}) == len(claims) >= 11
    for claim in claims:
        trials = load_benchmark(claim.benchmark, []).trials()
        run = {f"{trial.label}@{trial.workers}" for trial in trials}
        assert claim.of in run
        assert not isinstance(claim.against, str) or claim.against in run
