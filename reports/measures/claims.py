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
# What a trial had spent when it ended, of what it may need to the target.
SPENT = {
    "steps_to_target": "step",
    "examples_to_target": "examples",
    "time_to_target_s": "train_seconds",
    "modelled_time_to_target_s": "modelled_s",
    "bytes_to_target": "bytes_sent_per_worker",
}
SERVERS = {"churn": "model", "ensemble_churn": "ensemble"}  # whose predictions are compared
WHOLE = ("examples_per_s", "modelled_examples_per_s", "final_loss", "final_metric")  # of a trial
REPORTED = (  # by algorithms, of themselves
    "staleness",
    "primal_residual",
    "dual_residual",
    "rho",
    "replica_divergence",
    "agreement_loss",
)
OF_A_CURVE = (*CURVE, *REPORTED)
MEASURES = (*SPENT, *SERVERS, *WHOLE, *OF_A_CURVE, *(f"fall of {name}" for name in OF_A_CURVE))
PLAUSIBLE = (0.01, 10.0)  # bounds of a ratio; beyond them a point or a unit has slipped


class ClaimError(ValueError):
    """A claim that cannot be tested; the message says which and why."""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, as a bound on a ratio between two configurations of a benchmark.

    Attributes:
        name: the claim in a few words.
        source: paper and section.
        statement: what it says there, in our words.
        benchmark: the benchmark in whose regime it is tested.
        measure: one of `MEASURES`: a figure of a trial; a figure of its curve, which is the last value
            or, as `fall of FIGURE`, the last over the first; or `churn` or `ensemble_churn`.
        of: `ALGORITHM@WORKERS`.
        against: likewise, or a number.
        at_least: the ratio that the claim comes to, at least.
        at_most: at most.
        against_measure: the measure of `against`, where it is another.
        arithmetic: whether the ratio follows from how the algorithms are built, so that measuring it
            checks the implementation and not the paper.
        conditions: settings, nested as in a benchmark's resolved configuration, without which the claim
            is not judged.

    Raises:
        ClaimError: a measure, a configuration or a bound is not one.
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
    """The claims of a file, `claims.yaml` beside this one by default, with the conditions of each.

    Raises:
        ClaimError: in one line, which claim of which file is wrong and why.
    """
    content = yaml.safe_load(path.read_text())
    try:
        return [
            Claim(**entry, conditions=content["conditions"][entry["benchmark"]])
            for entry in content["claims"]
        ]
    except (ClaimError, KeyError, TypeError) as error:
        raise ClaimError(f"{path.name}: {error}") from error
