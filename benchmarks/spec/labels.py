"""Names of benchmarks and labels of algorithms: which there may be, and how a parser is given them."""

import re
from dataclasses import dataclass
from typing import Any

from paceline.benchmarks.spec.plugin import ConfigError

LONGEST = 100  # characters; MLflow and file systems take about 250 with what is put around them


def check_name(name: Any, place: str) -> None:
    """Raises `ConfigError` where a name cannot be shown on one line; `place` says what it names."""
    if not isinstance(name, str):
        raise ConfigError(f"{place}: {name!r} is read as a {type(name).__name__}; put it in quotes")
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > LONGEST:
        raise ConfigError(
            f"{place}: {name[:LONGEST]!r} is no name; give 1 to {LONGEST} printable characters,"
            " without a space at either end"
        )


def check_file_name(name: str, place: str) -> None:
    """Raises `ConfigError` where a name cannot be that of a file in a folder as well."""
    check_name(name, place)
    if name.startswith(".") or "/" in name or "\\" in name:
        raise ConfigError(
            f"{place}: {name!r} cannot name a file; leave out slashes and a dot at its beginning"
        )


@dataclass(frozen=True)
class Labels:
    """The labels of a benchmark's algorithms, and plain keys for a parser that reads dots as levels.

    Attributes:
        keys: the key of each label; a label of word characters is its own.
    """

    keys: dict[str, str]

    @classmethod
    def of(cls, algorithms: dict[Any, Any], place: str) -> "Labels":
        """Raises `ConfigError` where a label is no name."""
        for label in algorithms:
            check_name(label, place)
        taken = set(algorithms)
        keys = {}
        for number, label in enumerate(algorithms):
            key = label
            while not re.fullmatch(r"\w+", key) or (key != label and key in taken):
                key = f"label_{number}" if key == label else f"{key}_"
            keys[label] = key
        return cls(keys)

    def override(self, option: str) -> str:
        """An option of the command line with the key in the place of the label."""
        for label in sorted(self.keys, key=len, reverse=True):
            start = f"--algorithms.{label}"
            if option.startswith((f"{start}.", f"{start}=")):
                return f"--algorithms.{self.keys[label]}{option[len(start) :]}"
        return option

    def message(self, text: str) -> str:
        """A message of the parser with the labels in the places of their keys."""
        for label, key in self.keys.items():
            if label != key:
                text = re.sub(
                    rf"algorithms\.{key}\b", f"algorithms.{label}".replace("\\", r"\\"), text
                )
        return text
