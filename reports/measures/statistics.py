"""Ratios of figures that several seeds repeat, with intervals and tests; how far retrains differ.

`docs/statistics.md` says what each assumes, and `paceline measure coverage` checks it by simulation.
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
ROUNDING = 1e-12  # differences of logs up to this are those of floating-point numbers

Logs = NDArray[np.float64]  # one a repetition, along the last axis
Served = Mapping[int, NDArray[np.float32]]  # predictions by seed
Repeated = TypeVar("Repeated")


@dataclass(frozen=True)
class Ratio:
    """A ratio of two repeated figures, the geometric mean over the repetitions.

    Attributes:
        value: the ratio; NaN where there is none.
        low: lower end of its 95 % interval; NaN where there is none.
        high: upper end, likewise.
        p: of the two-sided test that the ratio is 1; NaN where there is no interval.
        repetitions: pairs of seeds; where they do not pair, the seeds of the side that has fewer.
        note: why there is no ratio or no interval, or which seeds are left out.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    repetitions: int = 0
    note: str = ""

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 1. Of several ratios, use `differing`."""
        return self.p < 1 - CONFIDENCE

    def __str__(self) -> str:
        shown = "no ratio" if math.isnan(self.value) else f"{self.value:.4g}"
        if not math.isnan(self.low):
            shown += f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{shown} ({self.note})" if self.note else shown


class Interval(NamedTuple):
    """Centre, half width and p-value of a mean of logs, or of a difference of two means."""

    centre: NDArray[np.float64]
    half: NDArray[np.float64]
    p: NDArray[np.float64]


class NoLogs(ValueError):
    """Figures without a logarithm; the message says which."""


def student(logs: Logs) -> Interval:
    """Student's 95 % interval of a mean of two or more, and the test that it is 0."""
    n = logs.shape[-1]
    return _interval(logs.mean(axis=-1), logs.var(axis=-1, ddof=1) / n, n - 1.0)


def welch(above: Logs, below: Logs) -> Interval:
    """Welch's 95 % interval of a difference of means, each of two or more, and the test that it is 0."""
    first, second = (part.var(axis=-1, ddof=1) / part.shape[-1] for part in (above, below))
    squares = first**2 / (above.shape[-1] - 1) + second**2 / (below.shape[-1] - 1)
    # Satterthwaite's degrees of freedom; where nothing varies, any will do.
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
    """The ratio of two repeated figures, with its interval on logs.

    What a seed does to both sides alike cancels in pairs. So where two seeds or more are on both sides,
    the interval is Student's over these pairs, and the other seeds are left out. Else it is Welch's over
    all. A figure that is missing (NaN), 0 or negative has no logarithm: then there is no ratio.

    Args:
        of: figures by seed.
        against: likewise.
        seeds_matter: whether a seed decides anything of the figure. It does not of examples/s: then all
            repetitions are independent, and pairs would only be fewer of them.
    """
    return _compared(of, against, 2, _logs, seeds_matter)


def churn_ratio(of: Served, against: Served) -> Ratio:
    """The ratio of two churns between retrains, each the geometric mean over its pairs of seeds.

    All predictions are on the same rows. Seeds pair as in `ratio`. As it is seeds that are drawn, and not
    pairs of them, the spread is that of the jackknife over seeds, which takes three. Where two retrains
    are equal, their churn of 0 has no logarithm, and there is no ratio.
    """
    return _compared(of, against, 3, lambda served: pseudo_values(distances(served)))


def by_seed(trials: pd.DataFrame, column: str) -> dict[int, float]:
    """A figure of the trials of one configuration, NaN where a trial has none."""
    figures = zip(trials["seed"].astype(int), trials[column].astype(float), strict=True)
    return dict(figures)


def _compared(
    of: Mapping[int, Repeated],
    against: Mapping[int, Repeated],
    fewest: int,
    logs: Callable[[Mapping[int, Repeated]], Logs],
    seeds_matter: bool = True,
) -> Ratio:
    """A ratio with an interval where there are `fewest` repetitions, given what makes logs of a side."""
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
    with np.errstate(over="ignore"):  # two seeds far apart leave everything open
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

    The chance that any ratio that is 1 is among them is at most 5 %, however they depend on each other.
    A ratio without an interval has a p-value of NaN: it differs never and does not count.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    found = [False] * len(p_values)
    for rank, (p, i) in enumerate(tested):
        if p > (1 - CONFIDENCE) / (len(tested) - rank):
            break
        found[i] = True
    return found


def distances(served: Served) -> NDArray[np.float64]:
    """The churn between any two retrains: [seeds, seeds], symmetric, 0 on the diagonal."""
    predicted = [*served.values()]
    found = np.zeros((len(predicted), len(predicted)))
    for i, j in zip(*np.triu_indices(len(predicted), 1), strict=True):
        found[i, j] = found[j, i] = churn(predicted[i], predicted[j])
    return found


def pseudo_values(apart: NDArray[np.float64]) -> Logs:
    """What each seed contributes to the log of the churn between retrains: the jackknife's pseudo-values.

    Their mean is the mean log of the churn over all pairs, and their variance over n is the jackknife's
    (Arvesen, 1969, of a mean over pairs). It is right where a seed is as far from all others, and too
    large where distances vary from pair to pair.

    Args:
        apart: [..., seeds, seeds] as of `distances`.

    Returns:
        [..., seeds]; all are equal where there are two seeds, which say nothing of a spread.

    Raises:
        NoLogs: there is no pair, or one does not differ.
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
    """How far the predictions of two retrains differ: the mean absolute difference.

    As in Anil et al. (2018). Of distributions over classes, half the sum over the classes:
    the total variation distance, which for two classes is the same.

    Args:
        first: probabilities [rows] of a positive label, or [rows, classes].
        second: likewise, on the same rows.
    """
    difference = np.abs(first - second)
    return float(difference.mean() if difference.ndim == 1 else difference.sum(axis=-1).mean() / 2)


def disagreement(first: NDArray[Any], second: NDArray[Any]) -> float:
    """The share of rows for which two retrains predict another label; arguments as of `churn`."""
    labels = [p > 0.5 if p.ndim == 1 else p.argmax(axis=-1) for p in (first, second)]
    return float((labels[0] != labels[1]).mean())
