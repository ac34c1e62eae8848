"""Verdicts on claims, on results made by hand."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from paceline.benchmarks.spec.reading import load_benchmark
from paceline.reports.measures.claims import Claim, read_claims
from paceline.reports.measures.results import Results
from paceline.reports.measures.verdicts import judge
from tests.reports.measures.claims_store import (
    CLAIM,
    FAILED,
    KILLED,
    TO_TARGET,
    results,
    stored,
    trial,
)

NAN = np.nan


@pytest.mark.parametrize(
    ("new", "old", "outcome"),
    [
        ([50, 52, 51], [100, 100, 100], "reproduced"),  # the interval ends at 0.535
        ([90, 87, 88], [100, 100, 100], "not reproduced"),
        ([50, 90, 70], [100, 100, 100], "inconclusive"),  # it holds 0.6
        ([50], [100], "inconclusive"),  # one seed
        ([], [100, 100], "not run"),
        ([50, 50], [], "not run"),
        ([KILLED, KILLED], [100, 100], "not run"),  # an interruption is nobody's fault
    ],
)
def test_the_interval_decides(new: list[Any], old: list[Any], outcome: str) -> None:
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
    assert judge(claim, results([200, 208, 206], [100, 100, 100])).outcome == outcome


@pytest.mark.parametrize("missing", [NAN, FAILED])
def test_a_seed_that_missed_the_target_or_failed_counts(missing: Any) -> None:
    """It needs more than the 1,000 steps that it took, so that the others cannot carry the claim."""
    verdict = judge(CLAIM, results([50, 51, missing], [100, 100, 100]))
    assert verdict.outcome == "inconclusive"
    assert verdict.reason.startswith("new@4 missed the target with seed 2: more than 1.366 [")
    most = judge(CLAIM, results([missing] * 3, [100, 101, 102]))
    assert most.outcome == "not reproduced"  # about 10 times as many and more
    within = judge(replace(CLAIM, at_most=9.99), results([missing] * 3, [110, 111, 112]))
    assert within.outcome == "inconclusive"  # 9 times as many and more


def test_a_lower_bound_is_reached_by_what_was_spent() -> None:
    claim = replace(CLAIM, at_least=9.0, at_most=np.inf)
    assert judge(claim, results([NAN, FAILED], [100, 100])).outcome == "reproduced"
    assert judge(claim, results([NAN, FAILED], [125, 125])).outcome == "inconclusive"


def test_where_the_other_missed_the_target_the_ratio_is_less() -> None:
    verdict = judge(CLAIM, results([50, 51, 52], [NAN, NAN, NAN]))
    assert verdict.outcome == "reproduced"
    assert verdict.reason.startswith("old@2 missed the target with seeds 0, 1, 2: less than 0.05")
    lower = replace(CLAIM, at_least=0.01, at_most=np.inf)
    assert judge(lower, results([50, 51, 52], [NAN, NAN, NAN])).outcome == "inconclusive"
    assert judge(CLAIM, results([50, NAN], [NAN, NAN])).outcome == "inconclusive"
    lower = replace(CLAIM, at_least=0.9, at_most=np.inf)
    assert judge(lower, results([NAN, NAN], [NAN, NAN])).outcome == "inconclusive"


def test_a_loss_is_no_better_where_every_seed_failed() -> None:
    claim = replace(CLAIM, measure="final_loss", at_most=1.01)

    def ended(*new: Any) -> Results:
        sides = [trial("old@2", s, 100, final_loss=0.45) for s in range(3)]
        return stored(
            [trial("new@4", s, end, final_loss=0.44) for s, end in enumerate(new)] + sides
        )

    assert judge(claim, ended(100, 100, 100)).outcome == "reproduced"
    verdict = judge(claim, ended(100, 100, FAILED))
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "new@4 has no figure with seed 2")
    assert judge(claim, ended(FAILED, FAILED, FAILED)).outcome == "not reproduced"
    lower = replace(claim, at_least=0.9, at_most=np.inf)
    assert judge(lower, ended(FAILED, FAILED, FAILED)).outcome == "inconclusive"


def test_seeds_of_one_side_alone_are_named() -> None:
    verdict = judge(CLAIM, results([50, 51, 50], [100, 100]))
    assert str(verdict.ratio).endswith("(without seed 2)")


def test_a_verdict_that_the_target_decides_is_none() -> None:
    """new@4 gets within 0.0003 of the target after 50 steps and to it after 90."""
    found = results([90, 90, 90], [100, 100, 100])
    curves = found.curves.copy()
    curves.loc[(curves["run_id"].str.startswith("new")) & (curves["step"] == 45), "step"] = 50
    near = (curves["run_id"].str.startswith("new")) & (curves["step"] == 50)
    curves.loc[near, "validation_loss"] = 0.5003
    verdict = judge(CLAIM, replace(found, curves=curves))
    assert verdict.outcome == "inconclusive"
    assert verdict.reason == "0.9 [0.9, 0.9], but at a target of 0.5005 0.5 [0.5, 0.5]"
    curves.loc[near, "validation_loss"] = 0.502
    assert judge(CLAIM, replace(found, curves=curves)).outcome == "not reproduced"


@pytest.mark.parametrize("measure", [*TO_TARGET, "modelled_time_to_target_s"])
def test_everything_that_a_target_takes_is_judged_at_the_targets_beside_it(measure: str) -> None:
    claim = replace(CLAIM, measure=measure)
    found = results([50, 52, 51], [100, 100, 100])
    assert judge(claim, found).outcome == "reproduced"
    late = found.curves["run_id"].str.startswith("new") & (found.curves["step"].between(50, 52))
    curves = found.curves.copy()
    curves.loc[late, "validation_loss"] = 0.4999  # on the target, and not 0.1 % below it
    verdict = judge(claim, replace(found, curves=curves))
    assert verdict.outcome == "inconclusive"
    assert "but at a target of 0.4995" in verdict.reason


def test_a_claim_may_be_against_a_number() -> None:
    claim = replace(CLAIM, against=100, at_most=0.6)
    assert judge(claim, results([50, 52, 51], [])).outcome == "reproduced"


def test_another_benchmark_does_not_test_it() -> None:
    verdict = judge(replace(CLAIM, benchmark="c"), results([50, 50], [100, 100]))
    assert (verdict.outcome, verdict.reason) == ("not run", "tested by the benchmark c")


def test_other_settings_than_its_conditions_do_not_test_it() -> None:
    claim = replace(CLAIM, conditions={"workload": {"target": {"loss": 0.4}, "name": "w"}})
    verdict = judge(claim, results([50, 50], [100, 100]))
    assert verdict.outcome == "not judged"
    assert (
        verdict.reason
        == "run with workload.target.loss = 0.4, not 0.5, workload.name = w, not None"
    )


def test_what_follows_from_the_code_is_called_so_unless_it_fails() -> None:
    claim = replace(CLAIM, arithmetic=True)
    assert judge(claim, results([50, 50], [100, 100])).outcome == "by construction"
    assert judge(claim, results([90, 90], [100, 100])).outcome == "not reproduced"


def test_churn_is_between_retrains_and_may_be_held_against_an_ensembles() -> None:
    found = results([1, 1, 1], [1, 1, 1])
    for seed, place in enumerate([0.0, 1.0, 2.1]):
        alone = np.full(10, 0.5 + 0.01 * place, dtype=np.float32)
        found.predictions[f"new@4 {seed}"] = {"model": alone}
        found.predictions[f"old@2 {seed}"] = {"model": alone, "ensemble": 0.5 + 2 * (alone - 0.5)}
    claim = replace(CLAIM, measure="churn", against_measure="ensemble_churn")
    verdict = judge(claim, found)
    assert verdict.outcome == "reproduced"
    assert verdict.ratio is not None
    assert verdict.ratio.value == pytest.approx(0.5, rel=1e-4)
    assert verdict.ratio.repetitions == 3  # seeds
    del found.predictions["new@4 1"]
    lost = judge(claim, found)
    assert (lost.outcome, lost.reason) == ("inconclusive", "new@4 has no predictions of seed 1")


def test_a_figure_of_the_curve_counts_at_its_end_or_by_its_fall() -> None:
    trials = [trial("new@4", seed, 100) for seed in range(2)]
    trials = [(row, curve.assign(primal_residual=[8.0, NAN, 2.0])) for row, curve in trials]
    claim = replace(CLAIM, measure="primal_residual", against=1, at_most=2.0)
    last = judge(claim, stored(trials))
    fall = judge(replace(claim, measure="fall of primal_residual", at_most=0.3), stored(trials))
    assert last.ratio is not None
    assert fall.ratio is not None
    assert (last.ratio.value, fall.ratio.value) == (pytest.approx(2.0), pytest.approx(0.25))


# Ratios at which each shipped claim holds and does not hold, from the papers and not from the file.
HOLDS_AND_NOT = {
    "more synchronous workers hardly help": (0.95, 0.6),
    "codistillation needs about half the steps": (0.5, 0.7),
    "codistillation cuts churn by about a third": (0.67, 0.85),
    "codistillation's loss is no worse": (0.999, 1.005),
    "disjoint shards beat shared ones": (0.99, 1.01),
    "stale checkpoints cost little": (1.05, 1.2),
    "label smoothing does not explain it": (1.01, 0.999),
    "an ensemble's churn at one model's serving cost": (1.0, 1.2),
    "Downpour saturates as workers grow": (0.9, 0.55),
    "Downpour's mean staleness is about the number of workers": (1.1, 0.6),
    "averaging every ten steps costs little": (1.003, 1.01),
    "co-learning comes close to centralised training": (1.005, 1.02),
    "ADMM's residuals fall": (0.4, 0.7),
    "ADMM's traffic does not depend on the local work": (0.25, 0.3),
    "DiLoCo cuts traffic by about its period": (0.02, 0.03),
}


@pytest.mark.parametrize("claim", read_claims(), ids=lambda claim: claim.name)
def test_every_shipped_claim_has_a_verdict_either_way(claim: Claim) -> None:
    """On a store of its benchmark, whose figures are made so that they come to a ratio."""
    holds, fails = HOLDS_AND_NOT[claim.name]
    good = "by construction" if claim.arithmetic else "reproduced"
    assert judge(claim, of_ratio(claim, holds)).outcome == good
    assert judge(claim, of_ratio(claim, fails)).outcome == "not reproduced"


def of_ratio(claim: Claim, value: float) -> Results:
    """Three seeds of both sides, of which the first has `value` times the figure of the second."""
    config = asdict(load_benchmark(claim.benchmark, []))
    wobble = [1.0, 1.0001, 1.0002]
    bases: dict[str, list[float]] = {}
    if isinstance(claim.against, str):
        bases[claim.against] = [200.0 * w for w in wobble]
        bases[claim.of] = [200.0 * value * w for w in wobble]
    else:
        bases[claim.of] = [claim.against * value * w for w in wobble]
    trials, predictions = [], {}
    for side, figures in bases.items():
        for seed, figure in enumerate(figures):
            row, curve = trial(side, seed, figure)
            row |= {"final_loss": figure, "bytes_sent_per_worker": figure}
            # The target is elsewhere than in the made curves.
            shift = config["workload"]["target"]["loss"] - 0.5
            curve["validation_loss"] += shift
            curve["staleness"] = figure
            curve["primal_residual"] = np.linspace(1.0, figure, len(curve))
            trials.append((row, curve))
            apart = np.full(10, 1e-3 * seed * figures[0] / 200, dtype=np.float64)
            predictions[f"{side} {seed}"] = {"model": apart, "ensemble": apart}
    return replace(stored(trials, claim.benchmark, config), predictions=predictions)
