"""Scaling laws, fitted to speedup against workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import curve_fit


def amdahl(workers: Any, serial: float) -> Any:
    """Speedup by Amdahl's law (1967). `serial` is the share of the work that does not run in parallel."""
    return workers / (1 + serial * (workers - 1))


def universal(workers: Any, contention: float, coherency: float) -> Any:
    """Speedup by the Universal Scalability Law of Gunther (1993).

    The law adds to Amdahl's law a cost for every pair of workers. Beyond some number of workers,
    more workers are slower.
    """
    return workers / (1 + contention * (workers - 1) + coherency * workers * (workers - 1))


Law = Callable[..., Any]

# The laws that apply to each kind of scaling. Amdahl's law assumes a fixed amount of work.
LAWS: dict[str, dict[str, Law]] = {
    "strong": {"Amdahl": amdahl, "Universal Scalability Law": universal},
    "weak": {"Universal Scalability Law": universal},
}


@dataclass(frozen=True)
class Fit:
    """A law fitted to points.

    Attributes:
        parameters: the parameters in the order of the law's arguments.
        deviation: the largest relative distance of a point from the law.
    """

    parameters: tuple[float, ...]
    deviation: float


def fewest(law: Law) -> int:
    """The fewest different numbers of workers, including 1, to which a law can be fitted and be wrong.

    Every law passes through the point of one worker. Each parameter lets it pass through one more
    point. With fewer numbers of workers, a perfect fit would be no evidence for the law.
    """
    return law.__code__.co_argcount + 1


def fit(law: Law, workers: Sequence[float], speedups: Sequence[float]) -> Fit | None:
    """Fits a law to points, with parameters from 0 to 1.

    The fit minimises the sum of squares of (law - speedup) / speedup. Relative errors are used because
    the error of a measured speedup grows with the speedup.

    Args:
        law: `amdahl` or `universal`.
        workers: the number of workers of each point. Several points may have the same number, as
            retrains do.
        speedups: the speedup of each point relative to one worker. Every law gives one worker a
            speedup of 1.

    Returns:
        The fit. None if the number of different worker counts beyond 1 does not exceed the number of
        parameters.
    """
    if len({*workers, 1}) < fewest(law):
        return None
    n, s = np.asarray(workers, dtype=float), np.asarray(speedups, dtype=float)
    start = [0.1] * (law.__code__.co_argcount - 1)
    found, _ = curve_fit(law, n, s, p0=start, sigma=s, bounds=(0, 1))
    deviation = float(np.abs(law(n, *found) / s - 1).max())
    return Fit(tuple(map(float, found)), deviation)
