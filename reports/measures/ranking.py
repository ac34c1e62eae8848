"""Whether one configuration needs less than another, and which of several needs least."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from paceline.reports.measures.scoring import BEFORE_TARGET
from paceline.reports.measures.statistics import CONFIDENCE, Ratio, by_seed, ratio

Configuration = tuple[str, int, pd.DataFrame]  # an algorithm, its workers and its trials
MOST_SEEDS = 100  # beyond, more seeds are no advice


@dataclass(frozen=True)
class Difference:
    """A difference of two repeated figures, with its interval; as `Ratio`, for what may be below zero."""

    value: float
    low: float
    high: float
    p: float
    repetitions: int

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.p < 1 - CONFIDENCE

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.4f} (one seed)"
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Comparison:
    """A figure of one configuration against that of another.

    Attributes:
        found: their ratio or difference, with its interval over seeds.
        resolved: whether the two are at least one evaluation interval apart. The target was reached
            between two evaluations, so a smaller difference may come from where these lie.
    """

    found: Ratio | Difference
    resolved: bool = True

    @property
    def differs(self) -> bool:
        """Whether one side may be called less than the other."""
        return self.resolved and self.found.differs

    def __str__(self) -> str:
        return str(self.found) if self.resolved else f"{self.found}, within one evaluation"


Compare = Callable[[pd.DataFrame, pd.DataFrame, str], Comparison | None]


def compare(of: pd.DataFrame, against: pd.DataFrame, column: str) -> Comparison | None:
    """The ratio of a figure of some trials to that of others, paired where both have the same seeds.

    Args:
        of: trials of a configuration, one a seed.
        against: likewise.
        column: a positive figure; of those of `TO_TARGET`, the evaluation before bounds what can be
            told apart.

    Returns:
        None where a trial has no such figure, or none above zero.
    """
    found = ratio(by_seed(of, column), by_seed(against, column))
    if math.isnan(found.value):
        return None
    apart = abs(float(of[column].mean() - against[column].mean()))
    interval = max(_resolution(trials, column) for trials in (of, against))
    return Comparison(found, apart == 0 or apart >= interval * (1 - 1e-9))


def compare_losses(of: pd.DataFrame, against: pd.DataFrame, column: str) -> Comparison | None:
    """The difference of a figure that may be below zero, such as a loss; arguments as of `compare`."""
    above, below = by_seed(of, column), by_seed(against, column)
    both = [*above.values(), *below.values()]
    if not above or not below or not np.isfinite(both).all():
        return None
    # A ratio of exponentials is the exponential of the difference, in units of the range.
    least, unit = min(both), max(both) - min(both) or 1.0
    above, below = (
        {seed: math.exp((loss - least) / unit) for seed, loss in side.items()}
        for side in (above, below)
    )
    found = ratio(above, below)
    value, low, high = (unit * math.log(x) for x in (found.value, found.low, found.high))
    return Comparison(Difference(value, low, high, found.p, found.repetitions))


@dataclass(frozen=True)
class Ranking:
    """The configurations that need least of something.

    Attributes:
        least: the first and those that cannot be told apart from it, by rising means.
        next: the second of them, or the first of the others; None where there is no other.
        lead: of the first against `next`.
    """

    least: list[Configuration]
    next: Configuration | None
    lead: Comparison | None

    @property
    def winner(self) -> bool:
        """Whether the first needs less than every other."""
        return self.lead is not None and len(self.least) == 1


def rank(configurations: list[Configuration], column: str, how: Compare = compare) -> Ranking:
    """Ranks configurations by their mean of a figure, of which less is better.

    Args:
        configurations: at least one.
        column: the figure.
        how: two of them are compared.
    """
    first, *others = sorted(configurations, key=lambda group: float(group[2][column].mean()))
    found = [(other, how(first[2], other[2], column)) for other in others]
    if not found:
        return Ranking([first], None, None)
    tied = [(other, lead) for other, lead in found if lead is None or not lead.differs]
    return Ranking([first, *(other for other, _ in tied)], *(tied or found)[0])


def seeds_needed(of: pd.DataFrame, against: pd.DataFrame, column: str) -> int | None:
    """Roughly how many seeds would tell two configurations apart, if the spread stays as it is.

    The least n at which the half-width of Student's t interval of the mean log ratio is below that mean.

    Returns:
        None where the spread is not known (one seed), the means are equal or the number is above
        `MOST_SEEDS`.
    """
    above, below = by_seed(of, column), by_seed(against, column)
    figures = [*above.values(), *below.values()]
    if min(len(above), len(below)) < 2 or not all(figure > 0 for figure in figures):
        return None
    logs = [np.log([side[seed] for seed in sorted(side)]) for side in (above, below)]
    difference = abs(float(logs[0].mean() - logs[1].mean()))
    parts = [logs[0] - logs[1]] if above.keys() == below.keys() else logs
    variance = sum(float(part.var(ddof=1)) for part in parts)
    for n in range(2, MOST_SEEDS + 1):
        if t.ppf((1 + CONFIDENCE) / 2, n - 1) * math.sqrt(variance / n) < difference:
            return n
    return None


def _resolution(trials: pd.DataFrame, column: str) -> float:
    """The mean interval between the evaluation that reached the target and the one before."""
    if column not in BEFORE_TARGET:
        return 0.0
    return float((trials[column] - trials[BEFORE_TARGET[column]]).astype(float).mean())
