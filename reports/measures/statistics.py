"""Ratios of repeated figures with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

CONFIDENCE, RESAMPLES = 0.95, 9_999


@dataclass(frozen=True)
class Ratio:
    """A ratio of two repeated figures, the geometric mean over the repetitions.

    Attributes:
        value: the ratio.
        low: lower end of its 95 % bootstrap interval; NaN where there is one repetition only.
        high: upper end, likewise.
        repetitions: how many there were on the side that has fewer.
    """

    value: float
    low: float
    high: float
    repetitions: int

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 1: only then is one side called less than the other."""
        return self.low > 1 or self.high < 1

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.4g} (one seed)"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def ratio(of: Sequence[float], against: Sequence[float], paired: bool) -> Ratio:
    """The ratio of `of` to `against`, with its interval.

    Args:
        of: positive figures, one a repetition.
        against: likewise.
        paired: whether the i-th of both share a seed, so that their ratios are what is resampled.

    Raises:
        ValueError: a side is empty or holds what is not positive, or pairs do not match.
    """
    above, below = np.asarray(of, dtype=float), np.asarray(against, dtype=float)
    if not len(above) or not len(below) or not (above > 0).all() or not (below > 0).all():
        raise ValueError(f"a ratio needs positive figures on both sides: {above}, {below}")
    if paired and len(above) != len(below):
        raise ValueError(f"{len(above)} figures cannot be paired with {len(below)}")
    logs = (np.log(above) - np.log(below),) if paired else (np.log(above), np.log(below))
    value = math.exp(np.log(above).mean() - np.log(below).mean())
    repetitions = min(len(above), len(below))
    if repetitions < 2:
        return Ratio(value, math.nan, math.nan, repetitions)
    if all(np.ptp(part) == 0 for part in logs):
        return Ratio(value, value, value, repetitions)  # nothing to resample
    interval = bootstrap(
        logs,
        _mean if paired else _difference,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Ratio(value, math.exp(interval.low), math.exp(interval.high), repetitions)


def _mean(logs: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(logs.mean(axis=axis))


def _difference(above: np.ndarray, below: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(above.mean(axis=axis) - below.mean(axis=axis))


def churn(first: np.ndarray, second: np.ndarray) -> float:
    """How far the predictions of two retrains differ: the mean absolute difference.

    As in Anil et al. (2018). Of distributions over classes, half the sum over the classes:
    the total variation distance, which for two classes is the same.

    Args:
        first: probabilities [rows] of a positive label, or [rows, classes].
        second: likewise, on the same rows.
    """
    difference = np.abs(first - second)
    return float(difference.mean() if difference.ndim == 1 else difference.sum(axis=-1).mean() / 2)


def disagreement(first: np.ndarray, second: np.ndarray) -> float:
    """The share of rows for which two retrains predict another label; arguments as of `churn`."""
    labels = [p > 0.5 if p.ndim == 1 else p.argmax(axis=-1) for p in (first, second)]
    return float((labels[0] != labels[1]).mean())
