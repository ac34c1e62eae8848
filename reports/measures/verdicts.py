"""Computes verdicts on the papers' claims from stored results."""

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
SHOWN = 3  # at most so many settings that depart from a claim's conditions are named
BAND = 0.001  # a verdict on costs to the target must hold for targets lower and higher by this fraction


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim, and the reason."""

    claim: Claim
    outcome: Outcome
    ratio: Ratio | None = None
    reason: str = ""


def judge(claim: Claim, results: Results) -> Verdict:
    """Judges one claim.

    The claim is reproduced if the 95 % interval of the ratio lies within the bound. It is not
    reproduced if the interval lies outside the bound. Otherwise it is inconclusive. With one seed it is
    inconclusive. A claim about the target is also inconclusive if a target lower or higher by the
    fraction `BAND` gives another verdict. A trial that failed or missed the target counts: it needs
    more than what it had spent when it ended.

    Args:
        claim: the claim.
        results: the results of a benchmark. If they are those of another benchmark than the claim's,
            the outcome is "not run". If the settings differ from the claim's conditions, the outcome is
            "not judged".
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
    """The conditions of a claim that a resolved configuration does not meet, with the actual values."""
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
    """The verdict at one target. By default it is the benchmark's own target."""
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
    """The verdict if trials failed or missed the target. Each needs more than it had spent."""
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
    # An unknown end (NaN) lies neither within a bound nor outside it.
    if claim.at_least <= found.low and found.high <= claim.at_most:
        return "by construction" if claim.arithmetic else "reproduced"
    beyond = found.high < claim.at_least or found.low > claim.at_most
    return "not reproduced" if beyond else "inconclusive"


def _ended(side: str, results: Results) -> pd.DataFrame:
    """The trials of a configuration that finished or failed.

    Killed trials are left out, because an interruption says nothing about the configuration.
    """
    label, _, workers = side.partition("@")
    trials = results.trials
    return trials[
        (trials["algorithm"] == label)
        & (trials["workers"] == int(workers))
        & trials["status"].isin(["FINISHED", "FAILED"])
    ]


def _figure(measure: str, trial: Any, results: Results, target: float | None) -> float:
    """A figure of one trial. NaN if the trial failed or has no such figure.

    If `target` is given, the costs to the target are those to `target`.
    """
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
    """The cost that a trial had spent when it ended. NaN if it is not known."""
    column, curve = SPENT[measure], _curve(trial, results)
    if column in trial:
        return float(trial[column])
    return float(curve[column].iloc[-1]) if column in curve and len(curve) else math.nan


def _curve(trial: Any, results: Results) -> pd.DataFrame:
    own: pd.DataFrame = results.curves[results.curves["run_id"] == trial["run_id"]]
    return own.sort_values("step")
