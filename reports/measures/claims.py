"""Verdicts on the papers' claims, computed from stored results."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from paceline.reports.measures.results import Results
from paceline.reports.measures.statistics import Ratio, churn, ratio

FILE = Path(__file__).parent / "claims.yaml"
Outcome = Literal["reproduced", "not reproduced", "inconclusive", "not run"]

# What a trial had spent when it ended, of what it may need to the target.
SPENT = {
    "steps_to_target": "step",
    "examples_to_target": "examples",
    "time_to_target_s": "train_seconds",
    "modelled_time_to_target_s": "modelled_s",
    "bytes_to_target": "bytes_sent_per_worker",
}


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, as a bound on a ratio between two configurations of a benchmark.

    Attributes:
        name: the claim in a few words.
        source: paper and section.
        statement: what it says there, in our words.
        benchmark: the benchmark in whose regime it is tested.
        measure: a numeric column of the results, a figure of the curve (its last value), `churn` or
            `ensemble_churn` between seeds, or `fall of FIGURE`, its last value over its first.
        of: `ALGORITHM@WORKERS`.
        against: likewise, or a number.
        at_least: the ratio that the claim comes to, at least.
        at_most: at most.
        against_measure: the measure of `against`, where it is another.
    """

    name: str
    source: str
    statement: str
    benchmark: str
    measure: str
    of: str
    against: str | float
    at_least: float = 0.0
    at_most: float = math.inf
    against_measure: str | None = None

    @property
    def bound(self) -> str:
        if math.isinf(self.at_most):
            return f"at least {self.at_least:g}"
        return (
            f"{self.at_least:g} to {self.at_most:g}"
            if self.at_least
            else f"at most {self.at_most:g}"
        )


@dataclass(frozen=True)
class Verdict:
    """What the results say of a claim, and why."""

    claim: Claim
    outcome: Outcome
    ratio: Ratio | None = None
    reason: str = ""


def read_claims(path: Path = FILE) -> list[Claim]:
    """The claims of a file, `reports/claims.yaml` by default."""
    return [Claim(**entry) for entry in yaml.safe_load(path.read_text())]


def judge(claim: Claim, results: Results) -> Verdict:
    """The verdict on one claim.

    It is reproduced where the 95 % interval of the ratio lies within the bound, not reproduced where it
    lies beyond it, and else inconclusive, as it is with one seed. A trial that missed the target needs
    more than any upper bound, and for a lower one more than what it had spent in the end.

    Args:
        claim: what is claimed.
        results: of a benchmark; of another than the claim's, it counts as not run.
    """
    if results.benchmark["name"] != claim.benchmark:
        return Verdict(claim, "not run", reason=f"tested by the benchmark {claim.benchmark}")
    of = _measured(claim.measure, claim.of, results)
    if isinstance(claim.against, str):
        measure = claim.against_measure or claim.measure
        against = _measured(measure, claim.against, results)
    else:
        against = pd.Series(float(claim.against), index=of.index)
    for side, figures in ((claim.of, of), (claim.against, against)):
        if figures.empty:
            return Verdict(claim, "not run", reason=f"{side} has no finished trial with it")
    if against.isna().any():
        return Verdict(claim, "inconclusive", reason=f"{claim.against} did not get there")
    if of.isna().any():
        return _missed(claim, of, against, results)
    found = _ratio(of, against)
    return Verdict(claim, _outcome(claim, found), found)


def _missed(claim: Claim, of: Any, against: Any, results: Results) -> Verdict:
    """The verdict where `of` missed the target: it needs more than it was given, by an unknown amount."""
    reason = f"{claim.of} did not get there"
    if not math.isinf(claim.at_most):
        return Verdict(claim, "not reproduced", reason=reason)
    least = of.fillna(_measured(SPENT.get(claim.measure, ""), claim.of, results))
    if least.isna().any():
        return Verdict(claim, "inconclusive", reason=reason)
    found = _ratio(least, against)
    outcome: Outcome = "reproduced" if _outcome(claim, found) == "reproduced" else "inconclusive"
    return Verdict(claim, outcome, found, f"{reason}: more than {found}")


def _ratio(of: Any, against: Any) -> Ratio:
    """Paired where both have the same seeds, or pairs of them."""
    shared = of.index.intersection(against.index)
    paired = len(shared) == len(of) == len(against)
    if paired:
        of, against = of[shared], against[shared]
    return ratio(of.tolist(), against.tolist(), paired)


def _outcome(claim: Claim, found: Ratio) -> Outcome:
    if found.repetitions < 2:
        return "inconclusive"
    if claim.at_least <= found.low and found.high <= claim.at_most:
        return "reproduced"
    beyond = found.high < claim.at_least or found.low > claim.at_most
    return "not reproduced" if beyond else "inconclusive"


def _measured(measure: str, side: str, results: Results) -> Any:
    """The figure of a configuration, by seed or, of churn, by pair of seeds."""
    label, _, workers = side.partition("@")
    trials = results.trials
    rows = trials[
        (trials["algorithm"] == label)
        & (trials["workers"] == int(workers))
        & (trials["status"] == "FINISHED")
    ]
    if measure in ("churn", "ensemble_churn"):
        server = "model" if measure == "churn" else "ensemble"
        served = {
            int(seed): results.predictions[run_id][server]
            for seed, run_id in zip(rows["seed"], rows["run_id"], strict=True)
            if server in results.predictions.get(run_id, {})
        }
        pairs = itertools.combinations(sorted(served), 2)
        return pd.Series({f"{a} {b}": churn(served[a], served[b]) for a, b in pairs}, dtype=float)
    if measure in rows:
        return rows.set_index("seed")[measure].astype(float)
    figure = measure.removeprefix("fall of ")
    curves = results.curves[results.curves["run_id"].isin(rows["run_id"])]
    if figure not in curves:
        return pd.Series(dtype=float)
    by_seed = curves.sort_values("step").dropna(subset=[figure]).groupby("seed")[figure]
    return by_seed.last() / by_seed.first() if figure != measure else by_seed.last()
