"""Laws of scaling, fitted to speedup against workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import curve_fit

FEWEST = 3  # numbers of workers that a law is fitted to


def amdahl(workers: Any, serial: float) -> Any:
    """Speedup where the part `serial` of the work is not shared, by Amdahl (1967)."""
    return workers / (1 + serial * (workers - 1))


def universal(workers: Any, contention: float, coherency: float) -> Any:
    """Speedup by the Universal Scalability Law of Gunther (1993).

    Amdahl's law with a cost beside it that every two workers have of each other: from some number of
    workers on, more of them are slower.
    """
    return workers / (1 + contention * (workers - 1) + coherency * workers * (workers - 1))


@dataclass(frozen=True)
class Fit:
    """A law fitted to points.

    Attributes:
        parameters: in the order of the law's arguments.
        deviation: the largest relative distance of a point from the law.
        determined: whether there are more points than parameters, so that the law could be wrong.
    """

    parameters: tuple[float, ...]
    deviation: float
    determined: bool


def fit(law: Callable[..., Any], workers: Sequence[float], speedups: Sequence[float]) -> Fit | None:
    """The parameters from 0 to 1 with which a law is nearest to the points in relative terms.

    Args:
        law: `amdahl` or `universal`.
        workers: of each point; several may have the same, as retrains do.
        speedups: relative to one worker, which all laws give a speedup of 1.

    Returns:
        None where there are fewer than `FEWEST` numbers of workers.
    """
    n, s = np.asarray(workers, dtype=float), np.asarray(speedups, dtype=float)
    if len(set(workers)) < FEWEST:
        return None
    number = law.__code__.co_argcount - 1
    found, _ = curve_fit(law, n, s, p0=[0.1] * number, sigma=s, bounds=(0, 1))
    deviation = float(np.abs(law(n, *found) / s - 1).max())
    return Fit(tuple(map(float, found)), deviation, len(set(workers) - {1}) > number)
