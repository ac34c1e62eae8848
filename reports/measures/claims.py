"""The papers' claims as data: bounds on ratios between configurations of a benchmark."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paceline.reports.measures.scoring import CURVE

FILE = Path(__file__).parent / "claims.yaml"
# For each cost to the target, the column that holds what a trial had spent when it ended.
SPENT = {
    "steps_to_target": "step",
    "examples_to_target": "examples",
    "time_to_target_s": "train_seconds",
    "modelled_time_to_target_s": "modelled_s",
    "bytes_to_target": "bytes_sent_per_worker",
}
SERVERS = {"churn": "model", "ensemble_churn": "ensemble"}  # the source of the predictions
WHOLE = (
    "examples_per_s",
    "modelled_examples_per_s",
    "final_loss",
    "final_metric",
)  # of a whole trial
REPORTED = (  # by the algorithms themselves
    "staleness",
    "primal_residual",
    "dual_residual",
    "rho",
    "replica_divergence",
    "agreement_loss",
)
OF_A_CURVE = (*CURVE, *REPORTED)
MEASURES = (*SPENT, *SERVERS, *WHOLE, *OF_A_CURVE, *(f"fall of {name}" for name in OF_A_CURVE))
PLAUSIBLE = (0.01, 10.0)  # a bound outside this range is a slip in a point or a unit


class ClaimError(ValueError):
    """A claim cannot be tested. The message says which one and why."""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, as a bound on a ratio between two configurations of a benchmark.

    Attributes:
        name: the claim in a few words.
        source: the paper and the section.
        statement: the claim of that section in our words.
        benchmark: the benchmark that tests the claim.
        measure: one of `MEASURES`. It is a figure of a trial, a figure of its curve, `churn` or
            `ensemble_churn`. `FIGURE` of a curve is its last value. `fall of FIGURE` is the last value
            divided by the first.
        of: the numerator, as `ALGORITHM@WORKERS`.
        against: the denominator, as `ALGORITHM@WORKERS` or a number.
        at_least: the lower bound of the ratio.
        at_most: the upper bound of the ratio.
        against_measure: the measure of `against`. If it is None, it is `measure`.
        arithmetic: whether the ratio follows from how the algorithms are built. Such a measurement
            checks the implementation and not the paper.
        conditions: settings that the claim requires, nested as in a benchmark's resolved configuration.
            Under other settings the claim is not judged.

    Raises:
        ClaimError: a measure, a configuration or a bound is not valid.
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
    arithmetic: bool = False
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for measure in (self.measure, self.against_measure or self.measure):
            if measure not in MEASURES:
                near = difflib.get_close_matches(measure, MEASURES, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ClaimError(f"{self.name}: no measure {measure!r}{hint}")
        for side in self.sides:
            label, _, workers = side.partition("@")
            if not label or not workers.isdigit():
                raise ClaimError(f"{self.name}: {side!r} is not ALGORITHM@WORKERS")
        if len(self.sides) == 1 and self.measure in SERVERS:
            raise ClaimError(f"{self.name}: churn is compared with churn, not with {self.against}")
        bounds = [b for b in (self.at_least, self.at_most) if 0 < b < math.inf]
        low, high = PLAUSIBLE
        if not bounds or self.at_least > self.at_most or min(bounds) < low or max(bounds) > high:
            raise ClaimError(
                f"{self.name}: the bound {self.bound} is none of a ratio, from {low:g} to {high:g}"
            )

    @property
    def sides(self) -> list[str]:
        """The configurations that are compared."""
        return [self.of, self.against] if isinstance(self.against, str) else [self.of]

    @property
    def bound(self) -> str:
        if math.isinf(self.at_most):
            return f"at least {self.at_least:g}"
        return (
            f"{self.at_least:g} to {self.at_most:g}"
            if self.at_least
            else f"at most {self.at_most:g}"
        )


def read_claims(path: Path = FILE) -> list[Claim]:
    """Reads the claims of a file and the conditions of each.

    Args:
        path: the file, by default `claims.yaml` beside this module.

    Raises:
        ClaimError: a claim is wrong. The message says in one line which claim of which file, and why.
    """
    content = yaml.safe_load(path.read_text())
    try:
        return [
            Claim(**entry, conditions=content["conditions"][entry["benchmark"]])
            for entry in content["claims"]
        ]
    except (ClaimError, KeyError, TypeError) as error:
        raise ClaimError(f"{path.name}: {error}") from error
