"""The dimensions of the search space of an algorithm or a task."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Real:
    """A real number from `low` to `high`. If `log` is True, it is drawn on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Integer:
    """An integer from `low` to `high`, both included.

    If `log` is True, it is drawn on a logarithmic scale.
    """

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of `values`. The values are categorical: they have no order and no distance."""

    values: tuple[Any, ...]


Dimension = Real | Integer | Choice
