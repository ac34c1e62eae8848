"""Compares the figures of configurations and ranks them. Less is better."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from paceline.reports.measures.scoring import BEFORE_TARGET
from paceline.reports.measures.statistics import CONFIDENCE, Ratio, by_seed, ratio

Configuration = tuple[str, int, pd.DataFrame]  # an algorithm, its workers and its trials
MOST_SEEDS = 100  # the report does not advise to run more seeds than this


@dataclass(frozen=True)
class Difference:
    """A difference of two repeated figures, with its interval.

    It is used in place of `Ratio` for figures that may be negative.
    """

    value: float
    low: float
    high: float
    p: float
    repetitions: int

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 0."""
        return self.p < 1 - CONFIDENCE

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.4f} (one seed)"
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Comparison:
    """The comparison of a figure of one configuration with that of another.

    Attributes:
        found: their ratio or difference, with its interval over seeds.
        resolved: whether the two figures are at least one evaluation interval apart. The target was
            reached between two evaluations, so a smaller difference may come from the times of the
            evaluations.
    """

    found: Ratio | Difference
    resolved: bool = True

    @property
    def differs(self) -> bool:
        """Whether the two configurations may be called different."""
        return self.resolved and self.found.differs

    def __str__(self) -> str:
        return str(self.found) if self.resolved else f"{self.found}, within one evaluation"


Compare = Callable[[pd.DataFrame, pd.DataFrame, str], Comparison | None]


def compare(of: pd.DataFrame, against: pd.DataFrame, column: str) -> Comparison | None:
    """The ratio of a figure of two configurations, paired if both have the same seeds.

    Args:
        of: trials of the numerator's configuration, one for each seed.
        against: trials of the denominator's configuration, one for each seed.
        column: a positive figure. If it is one of `TO_TARGET`, the distance to the previous evaluation
            limits the differences that can be resolved.

    Returns:
        The comparison. None if the figure of a trial is missing or not positive.
    """
    found = ratio(by_seed(of, column), by_seed(against, column))
    if math.isnan(found.value):
        return None
    apart = abs(float(of[column].mean() - against[column].mean()))
    interval = max(_resolution(trials, column) for trials in (of, against))
    return Comparison(found, apart == 0 or apart >= interval * (1 - 1e-9))


def compare_losses(of: pd.DataFrame, against: pd.DataFrame, column: str) -> Comparison | None:
    """The difference of a figure that may be negative, such as a loss.

    The arguments are those of `compare`. The result is None if a figure is missing or not finite.
    """
    above, below = by_seed(of, column), by_seed(against, column)
    both = [*above.values(), *below.values()]
    if not above or not below or not np.isfinite(both).all():
        return None
    # A ratio of exponentials is the exponential of the difference. Losses are in units of their range, so
    # the exponentials cannot overflow.
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
    """The configurations with the lowest figure.

    Attributes:
        least: the first configuration and all that cannot be told apart from it, in ascending order of
            their means.
        next: the second configuration of `least`. If `least` has only one, it is the first of the
            others. None if there is no other configuration.
        lead: the comparison of the first configuration with `next`.
    """

    least: list[Configuration]
    next: Configuration | None
    lead: Comparison | None

    @property
    def winner(self) -> bool:
        """Whether the first configuration has a lower figure than every other."""
        return self.lead is not None and len(self.least) == 1


def rank(configurations: list[Configuration], column: str, how: Compare = compare) -> Ranking:
    """Ranks configurations by the mean of a figure. Less is better.

    Args:
        configurations: at least one configuration.
        column: the figure.
        how: the function that compares two configurations.
    """
    first, *others = sorted(configurations, key=lambda group: float(group[2][column].mean()))
    found = [(other, how(first[2], other[2], column)) for other in others]
    if not found:
        return Ranking([first], None, None)
    tied = [(other, lead) for other, lead in found if lead is None or not lead.differs]
    return Ranking([first, *(other for other, _ in tied)], *(tied or found)[0])


def seeds_needed(of: pd.DataFrame, against: pd.DataFrame, column: str) -> int | None:
    """Estimates how many seeds would tell two configurations apart, if the spread stays as it is.

    The estimate is the least n for which the half width of Student's t interval of the mean log ratio
    is below that mean.

    Returns:
        The number of seeds. None if there is one seed and so no known spread, if a figure is not
        positive, if the means are equal, or if the number exceeds `MOST_SEEDS`.
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
    """The mean distance between the evaluation that reached the target and the previous one."""
    if column not in BEFORE_TARGET:
        return 0.0
    return float((trials[column] - trials[BEFORE_TARGET[column]]).astype(float).mean())
