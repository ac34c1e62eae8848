"""The algorithms that a benchmark names: those of `lightning_modules/`, and a user's own classes."""

import inspect
import re
from typing import TYPE_CHECKING, Any

from paceline.benchmarks.spec.plugin import ConfigError, Plugin, nearest
from paceline.lightning_modules import find_algorithms

if TYPE_CHECKING:
    from paceline.lightning_modules.backend.algorithm import Algorithm


Named = tuple[str, Plugin | None]  # the name of an algorithm, and its class if it is a user's own


def algorithm_class(name: str, own: Plugin | None) -> "type[Algorithm]":
    """Returns the class of an algorithm: that of its name, or a user's own."""
    return find_algorithms()[name] if own is None else own.cls


def with_classes(
    algorithms: dict[str, Any], overrides: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """Adds the entries of `--algorithms.LABEL.class=FILE:CLASS` to the algorithms of a benchmark.

    Returns the algorithms and the other overrides. The classes decide which options there are, so they
    have to be known before the options are parsed.
    """
    found, others = dict(algorithms), []
    for option in overrides:
        if stated := re.fullmatch(r"--algorithms\.(.+)\.class=(.+)", option):
            found[stated[1]] = {**(found.get(stated[1]) or {}), "class": stated[2]}
        else:
            others.append(option)
    return found, others


def named(label: str, entry: dict[str, Any], place: str) -> Named:
    """Returns the name of an entry's algorithm, and its class if it is not one of Paceline's.

    The keys `algorithm` and `class` are removed from the entry.

    Args:
        label: the label of the entry, which is the name of the algorithm if the entry has none.
        entry: the entry in the section `algorithms`.
        place: the file of the benchmark, for the message of an error.

    Raises:
        ConfigError: there is no such algorithm, or the class is none.
    """
    stated = entry.pop("class", None)
    if stated is not None and "algorithm" in entry:
        raise ConfigError(f"{place}: algorithms.{label} has both algorithm and class; give one")
    name = entry.pop("algorithm", label)
    if stated is not None:
        own = Plugin.named(str(stated))
        _check(own)
        return own.cls.name, own
    if name not in (known := find_algorithms()):
        near = nearest(name, list(known))
        raise ConfigError(f"{place}: no algorithm {name!r}{near}; there are {', '.join(known)}")
    return name, None


def _check(own: Plugin) -> None:
    from paceline.lightning_modules.backend.algorithm import Algorithm

    if not (inspect.isclass(own.cls) and issubclass(own.cls, Algorithm)):
        raise ConfigError(f"{own} is no algorithm; derive it from paceline.Algorithm")
    for attribute in ("name", "title"):
        if not isinstance(getattr(own.cls, attribute, None), str):
            raise ConfigError(f"{own} has no attribute '{attribute}', a string")
