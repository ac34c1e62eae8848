"""Ratios of figures over several seeds, with intervals and tests, and the churn between retrains.

`docs/statistics.md` states the assumptions. `paceline measure coverage` checks the intervals and tests
by simulation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
ROUNDING = 1e-12  # smaller differences of logs are rounding errors

Logs = NDArray[np.float64]  # the last axis is over repetitions
Served = Mapping[int, NDArray[np.float32]]  # predictions by seed
Repeated = TypeVar("Repeated")


@dataclass(frozen=True)
class Ratio:
    """A ratio of two repeated figures: the geometric mean over the repetitions.

    Attributes:
        value: the ratio. NaN if there is none.
        low: the lower end of its 95 % interval. NaN if there is no interval.
        high: the upper end of its 95 % interval. NaN if there is no interval.
        p: the p-value of the two-sided test that the ratio is 1. NaN if there is no interval.
        repetitions: the number of pairs of seeds. If seeds are not paired, it is the number of seeds on
            the side that has fewer.
        note: the reason why there is no ratio or no interval, or the seeds that are left out.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    repetitions: int = 0
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 1. For several ratios, use `differing`."""
        return self.p < 1 - CONFIDENCE

    def __str__(self) -> str:
        shown = "no ratio" if math.isnan(self.value) else f"{self.value:.4g}"
        if not math.isnan(self.low):
            shown += f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{shown} ({self.note})" if self.note else shown


class Interval(NamedTuple):
    """Centre, half width and p-value of a mean of logs or of a difference of two means."""

    centre: NDArray[np.float64]
    half: NDArray[np.float64]
    p: NDArray[np.float64]


class NoLogs(ValueError):
    """A figure has no logarithm. The message says which one."""


def student(logs: Logs) -> Interval:
    """Student's 95 % interval of a mean of at least two logs, and the test that the mean is 0."""
    n = logs.shape[-1]
    return _interval(logs.mean(axis=-1), logs.var(axis=-1, ddof=1) / n, n - 1.0)


def welch(above: Logs, below: Logs) -> Interval:
    """Welch's 95 % interval of a difference of two means, and the test that the difference is 0.

    Each mean is over at least two logs.
    """
    first, second = (part.var(axis=-1, ddof=1) / part.shape[-1] for part in (above, below))
    squares = first**2 / (above.shape[-1] - 1) + second**2 / (below.shape[-1] - 1)
    # Satterthwaite's degrees of freedom. If nothing varies, any value will do.
    freedom = (first + second) ** 2 / np.where(squares > 0, squares, 1.0)
    centre = above.mean(axis=-1) - below.mean(axis=-1)
    return _interval(centre, first + second, np.maximum(freedom, 1.0))


def _interval(centre: Any, variance: Any, freedom: Any) -> Interval:
    deviation = np.sqrt(variance)
    exact = deviation <= ROUNDING
    far = np.abs(centre) / np.where(exact, 1.0, deviation)
    p = np.where(exact, np.abs(centre) <= ROUNDING, 2 * stats.t.sf(far, freedom))
    half = np.where(exact, 0.0, stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * deviation)
    return Interval(centre, half, p)


def ratio(
    of: Mapping[int, float], against: Mapping[int, float], seeds_matter: bool = True
) -> Ratio:
    """The ratio of two repeated figures, with an interval that is computed on logs.

    An effect that a seed has equally on both sides cancels within a pair. If the two sides share at
    least two seeds, the interval is Student's over these pairs, and the other seeds are left out.
    Otherwise it is Welch's over all seeds. A figure that is missing (NaN), 0 or negative has no
    logarithm. There is then no ratio.

    Args:
        of: figures of the numerator by seed.
        against: figures of the denominator by seed.
        seeds_matter: whether the figure depends on the seed. Examples/s do not depend on it. All
            repetitions are then independent, and pairing would only reduce their number.
    """
    return _compared(of, against, 2, _logs, seeds_matter)


def churn_ratio(of: Served, against: Served) -> Ratio:
    """The ratio of two churns between retrains. Each churn is the geometric mean over pairs of seeds.

    All predictions are on the same rows. Seeds are paired as in `ratio`. The random draws are seeds and
    not pairs of seeds, so the spread is that of the jackknife over seeds. The jackknife needs three
    seeds. If two retrains are equal, their churn of 0 has no logarithm, and there is no ratio.
    """
    return _compared(of, against, 3, lambda served: pseudo_values(distances(served)))


def by_seed(trials: pd.DataFrame, column: str) -> dict[int, float]:
    """A figure of the trials of one configuration, by seed. NaN if a trial has no such figure."""
    figures = zip(trials["seed"].astype(int), trials[column].astype(float), strict=True)
    return dict(figures)


def _compared(
    of: Mapping[int, Repeated],
    against: Mapping[int, Repeated],
    fewest: int,
    logs: Callable[[Mapping[int, Repeated]], Logs],
    seeds_matter: bool = True,
) -> Ratio:
    """A ratio, with an interval if there are at least `fewest` repetitions.

    `logs` computes the logs of one side.
    """
    note, alone = "", sorted(set(of) ^ set(against))
    shared = sorted(set(of) & set(against))
    paired = seeds_matter and len(shared) >= fewest
    if paired:
        of, against = ({seed: side[seed] for seed in shared} for side in (of, against))
    if seeds_matter and alone:
        note = f"without {named(alone)}" if paired else "seeds not paired"
    try:
        above, below = logs(of), logs(against)
    except NoLogs as error:
        return Ratio(math.nan, note=str(error))
    repetitions = min(len(of), len(against))
    if repetitions < fewest:
        few = ("one seed", "two seeds")[repetitions - 1]
        value = math.exp(above.mean() - below.mean())
        return Ratio(value, repetitions=repetitions, note=few)
    centre, half, p = student(above - below) if paired else welch(above, below)
    with np.errstate(over="ignore"):  # with two distant seeds the interval may reach infinity
        value, low, high = map(float, np.exp([centre, centre - half, centre + half]))
    return Ratio(value, low, high, float(p), repetitions, note)


def _logs(figures: Mapping[int, float]) -> Logs:
    without = [seed for seed, figure in figures.items() if not figure > 0]
    if without or not figures:
        missing = any(math.isnan(figures[seed]) for seed in without)
        what = "no figure" if missing else "a figure that is not positive"
        raise NoLogs(f"{what}: {named(without)}" if figures else "no figure")
    return np.log(np.array([*figures.values()], dtype=np.float64))


def named(seeds: Sequence[int]) -> str:
    """`seed 1`, `seeds 1, 2`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def differing(p_values: Sequence[float]) -> list[bool]:
    """Which of several ratios differ from 1, by Holm's procedure (1979) on their p-values.

    The chance that any ratio whose true value is 1 is called different is at most 5 %. This holds
    however the ratios depend on each other. A ratio without an interval has a p-value of NaN. It never
    differs and does not count as a comparison.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    found = [False] * len(p_values)
    for rank, (p, i) in enumerate(tested):
        if p > (1 - CONFIDENCE) / (len(tested) - rank):
            break
        found[i] = True
    return found


def distances(served: Served) -> NDArray[np.float64]:
    """The churn between every two retrains: [seeds, seeds], symmetric, with 0 on the diagonal."""
    predicted = [*served.values()]
    found = np.zeros((len(predicted), len(predicted)))
    for i, j in zip(*np.triu_indices(len(predicted), 1), strict=True):
        found[i, j] = found[j, i] = churn(predicted[i], predicted[j])
    return found


def pseudo_values(apart: NDArray[np.float64]) -> Logs:
    """The jackknife's pseudo-values of the mean log churn, one for each seed.

    Their mean is the mean log churn over all pairs. Their variance divided by n is the jackknife
    variance of a mean over pairs (Arvesen, 1969). The variance is right if each seed has the same
    distance to all others. It is too large if distances vary from pair to pair.

    Args:
        apart: distances [..., seeds, seeds], as `distances` returns them.

    Returns:
        Pseudo-values [..., seeds]. With two seeds they are equal, because two seeds say nothing about
        the spread.

    Raises:
        NoLogs: there is no pair of seeds, or two retrains are equal.
    """
    n = apart.shape[-1]
    if n < 2:
        raise NoLogs("one seed has no retrains")
    itself = np.eye(n, dtype=bool)
    if not (apart[..., ~itself] > 0).all():
        raise NoLogs("retrains that are equal have a churn of 0")
    of_seed = np.log(np.where(itself, 1.0, apart)).sum(axis=-1)
    mean = of_seed.mean(axis=-1, keepdims=True)
    spread = 2 / (n - 2) if n > 2 else 0.0
    return np.asarray(mean / (n - 1) + spread * (of_seed - mean))


def churn(first: NDArray[Any], second: NDArray[Any]) -> float:
    """The churn between two retrains: the mean absolute difference of their predictions.

    The definition is that of Anil et al. (2018). For distributions over classes, the difference of a
    row is half the sum over the classes. This is the total variation distance. For two classes both
    definitions agree.

    Args:
        first: probabilities [rows] of a positive label, or [rows, classes].
        second: predictions of the same shape on the same rows.
    """
    difference = np.abs(first - second)
    return float(difference.mean() if difference.ndim == 1 else difference.sum(axis=-1).mean() / 2)


def disagreement(first: NDArray[Any], second: NDArray[Any]) -> float:
    """The share of rows for which two retrains predict different labels.

    The arguments are those of `churn`.
    """
    labels = [p > 0.5 if p.ndim == 1 else p.argmax(axis=-1) for p in (first, second)]
    return float((labels[0] != labels[1]).mean())
