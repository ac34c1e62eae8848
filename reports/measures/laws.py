"""Laws of scaling, fitted to speedup against workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import curve_fit


def amdahl(workers: Any, serial: float) -> Any:
    """Speedup where the part `serial` of the work is not shared, by Amdahl (1967)."""
    return workers / (1 + serial * (workers - 1))


def universal(workers: Any, contention: float, coherency: float) -> Any:
    """Speedup by the Universal Scalability Law of Gunther (1993).

    Amdahl's law with a cost beside it that every two workers have of each other: from some number of
    workers on, more of them are slower.
    """
    return workers / (1 + contention * (workers - 1) + coherency * workers * (workers - 1))


Law = Callable[..., Any]

# By what happens to the work as workers are added. Amdahl's is of a fixed amount of it.
LAWS: dict[str, dict[str, Law]] = {
    "strong": {"Amdahl": amdahl, "Universal Scalability Law": universal},
    "weak": {"Universal Scalability Law": universal},
}


@dataclass(frozen=True)
class Fit:
    """A law fitted to points.

    Attributes:
        parameters: in the order of the law's arguments.
        deviation: the largest relative distance of a point from the law.
    """

    parameters: tuple[float, ...]
    deviation: float


def fewest(law: Law) -> int:
    """Of how many numbers of workers, 1 among them, a law can be fitted and be wrong.

    All laws meet the point of one worker, and each parameter can meet another.
    """
    return law.__code__.co_argcount + 1


def fit(law: Law, workers: Sequence[float], speedups: Sequence[float]) -> Fit | None:
    """The parameters from 0 to 1 with which a law is nearest to the points in relative terms.

    The sum of squares of (law - speedup) / speedup is least: the error of a measured speedup grows with
    it.

    Args:
        law: `amdahl` or `universal`.
        workers: of each point; several may have the same, as retrains do.
        speedups: relative to one worker, which all laws give a speedup of 1.

    Returns:
        None where there are not more numbers of workers beyond 1 than parameters.
    """
    if len({*workers, 1}) < fewest(law):
        return None
    n, s = np.asarray(workers, dtype=float), np.asarray(speedups, dtype=float)
    start = [0.1] * (law.__code__.co_argcount - 1)
    found, _ = curve_fit(law, n, s, p0=start, sigma=s, bounds=(0, 1))
    deviation = float(np.abs(law(n, *found) / s - 1).max())
    return Fit(tuple(map(float, found)), deviation)
