"""The dimensions that an algorithm or a task states as its search space."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Real:
    """A number from `low` to `high`, on a logarithmic scale where `log` says so."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included, on a logarithmic scale where `log` says so."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of `values`, of which none is nearer to one than to another."""

    values: tuple[Any, ...]


Dimension = Real | Integer | Choice
