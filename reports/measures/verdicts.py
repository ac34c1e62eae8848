"""Verdicts on the papers' claims, computed from stored results."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from paceline.reports.measures.claims import SERVERS, SPENT, Claim
from paceline.reports.measures.link import PRESETS, modelled_seconds
from paceline.reports.measures.results import Results
from paceline.reports.measures.retrains import served
from paceline.reports.measures.scoring import score
from paceline.reports.measures.statistics import Ratio, churn_ratio, named, ratio

Outcome = Literal[
    "reproduced", "by construction", "not reproduced", "inconclusive", "not judged", "not run"
]
SHOWN = 3  # so many settings are named that a claim needs otherwise
BAND = 0.001  # a verdict on what a target takes has to hold for targets this much lower and higher


@dataclass(frozen=True)
class Verdict:
    """What the results say of a claim, and why."""

    claim: Claim
    outcome: Outcome
    ratio: Ratio | None = None
    reason: str = ""


def judge(claim: Claim, results: Results) -> Verdict:
    """The verdict on one claim.

    It is reproduced where the 95 % interval of the ratio lies within the bound, not reproduced where it
    lies beyond it, and else inconclusive, as it is with one seed. A claim about the target is
    inconclusive, too, where a target lower or higher by `BAND` gives another verdict. A trial that failed
    or missed the target counts: it needs more than what it had spent in the end.

    Args:
        claim: what is claimed.
        results: of a benchmark; of another than the claim's, it counts as not run. Where it was run
            with other settings than the claim's conditions, it is not judged.
    """
    if results.benchmark["name"] != claim.benchmark:
        return Verdict(claim, "not run", reason=f"tested by the benchmark {claim.benchmark}")
    if others := list(departures(claim, results.benchmark["benchmark"])):
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        reason = f"run with {', '.join(others[:SHOWN])}{more}"
        return Verdict(claim, "not judged", reason=reason)
    verdict = _judge(claim, results)
    if claim.measure not in SPENT or verdict.outcome in ("inconclusive", "not run"):
        return verdict
    target = results.benchmark["benchmark"]["workload"]["target"]["loss"]
    for other in (target * (1 - BAND), target * (1 + BAND)):
        there = _judge(claim, results, other)
        if there.outcome != verdict.outcome:
            why = there.reason or there.ratio
            reason = f"{verdict.reason or verdict.ratio}, but at a target of {other:.6g} {why}"
            return Verdict(claim, "inconclusive", verdict.ratio, reason)
    return verdict


def departures(claim: Claim, configuration: Mapping[str, Any]) -> Iterator[str]:
    """The conditions of a claim that a resolved configuration does not meet, with what it has instead."""
    labels = {side.partition("@")[0] for side in claim.sides}

    def walk(wanted: Mapping[str, Any], found: Any, place: str) -> Iterator[str]:
        for key, value in wanted.items():
            if place == "algorithms." and key not in labels:
                continue
            has = found.get(key) if isinstance(found, Mapping) else None
            if isinstance(value, Mapping):
                yield from walk(value, has, f"{place}{key}.")
            elif has != value:
                yield f"{place}{key} = {value}, not {has}"

    return walk(claim.conditions, configuration, "")


def _judge(claim: Claim, results: Results, target: float | None = None) -> Verdict:
    """The verdict at one target, the benchmark's own unless another is given."""
    ended = [_ended(side, results) for side in claim.sides]
    for side, trials in zip(claim.sides, ended, strict=True):
        if trials.empty:
            return Verdict(claim, "not run", reason=f"{side} has no trial that ended")
    if claim.measure in SERVERS:
        return _judge_churn(claim, results, *ended)
    measures = (claim.measure, claim.against_measure or claim.measure)
    sides = [
        {
            int(trial["seed"]): _figure(measure, trial, results, target)
            for _, trial in trials.iterrows()
        }
        for measure, trials in zip(measures, ended, strict=False)
    ]
    missed = [[seed for seed, figure in side.items() if math.isnan(figure)] for side in sides]
    if any(missed):
        return _missed(claim, results, ended, sides, missed)
    found = _ratio(claim, sides)
    return Verdict(claim, _outcome(claim, found), found)


def _judge_churn(claim: Claim, results: Results, *ended: pd.DataFrame) -> Verdict:
    servers = (SERVERS[claim.measure], SERVERS[claim.against_measure or claim.measure])
    both = [served(results, own, name) for own, name in zip(ended, servers, strict=True)]
    for side, trials, kept in zip(claim.sides, ended, both, strict=True):
        if lost := sorted(set(trials["seed"].astype(int)) - set(kept)):
            reason = f"{side} has no predictions of {named(lost)}"
            return Verdict(claim, "inconclusive", reason=reason)
    found = churn_ratio(*both)
    return Verdict(claim, _outcome(claim, found), found)


def _missed(
    claim: Claim,
    results: Results,
    ended: list[pd.DataFrame],
    sides: list[dict[int, float]],
    missed: list[list[int]],
) -> Verdict:
    """The verdict where trials failed or missed the target: each needs more than what it had spent."""
    what = "missed the target" if claim.measure in SPENT else "has no figure"
    reason = " and ".join(
        f"{side} {what} with {named(lost)}"
        for side, lost in zip(claim.sides, missed, strict=True)
        if lost
    )
    if claim.measure not in SPENT:
        lost_all = missed[0] == list(sides[0]) and not math.isinf(claim.at_most)
        return Verdict(claim, "not reproduced" if lost_all else "inconclusive", reason=reason)
    for trials, side, lost in zip(ended, sides, missed, strict=True):
        for _, trial in trials[trials["seed"].isin(lost)].iterrows():
            side[int(trial["seed"])] = _spent(claim.measure, trial, results)
    found = _ratio(claim, sides)
    if math.isnan(found.value) or all(missed):
        return Verdict(claim, "inconclusive", reason=reason)
    words, bounded = (
        ("more", replace(found, high=math.inf)) if missed[0] else ("less", replace(found, low=0.0))
    )
    return Verdict(claim, _outcome(claim, bounded), found, f"{reason}: {words} than {found}")


def _ratio(claim: Claim, sides: list[dict[int, float]]) -> Ratio:
    of, *others = sides
    return ratio(of, others[0] if others else dict.fromkeys(of, float(claim.against)))


def _outcome(claim: Claim, found: Ratio) -> Outcome:
    # An end that is unknown (NaN) lies within no bound and beyond none.
    if claim.at_least <= found.low and found.high <= claim.at_most:
        return "by construction" if claim.arithmetic else "reproduced"
    beyond = found.high < claim.at_least or found.low > claim.at_most
    return "not reproduced" if beyond else "inconclusive"


def _ended(side: str, results: Results) -> pd.DataFrame:
    """The trials of a configuration that finished or failed; who interrupted one says nothing of it."""
    label, _, workers = side.partition("@")
    trials = results.trials
    return trials[
        (trials["algorithm"] == label)
        & (trials["workers"] == int(workers))
        & trials["status"].isin(["FINISHED", "FAILED"])
    ]


def _figure(measure: str, trial: Any, results: Results, target: float | None) -> float:
    """A figure of one trial, to `target` where it is given; NaN where the trial failed or has none."""
    if trial["status"] != "FINISHED":
        return math.nan
    curve = _curve(trial, results)
    if target is not None and measure in SPENT:
        reached = score(curve, target)
        if measure != "modelled_time_to_target_s" or "steps_to_target" not in reached:
            return reached.get(measure, math.nan)
        point = curve[curve["step"] == reached["steps_to_target"]].iloc[0]
        times = (point["compute_seconds"], point["messages_per_worker"])
        return modelled_seconds(*times, results.records[trial["run_id"]], PRESETS[results.link])
    if measure in trial:
        return float(trial[measure])
    figure = measure.removeprefix("fall of ")
    values = curve[figure].dropna() if figure in curve else pd.Series(dtype=float)
    if values.empty:
        return math.nan
    return float(values.iloc[-1] / values.iloc[0] if figure != measure else values.iloc[-1])


def _spent(measure: str, trial: Any, results: Results) -> float:
    """What a trial had spent in the end of what it may need to the target; NaN where it is unknown."""
    column, curve = SPENT[measure], _curve(trial, results)
    if column in trial:
        return float(trial[column])
    return float(curve[column].iloc[-1]) if column in curve and len(curve) else math.nan


def _curve(trial: Any, results: Results) -> pd.DataFrame:
    own: pd.DataFrame = results.curves[results.curves["run_id"] == trial["run_id"]]
    return own.sort_values("step")
