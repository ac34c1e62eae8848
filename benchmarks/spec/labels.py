"""The rules for names of benchmarks and labels of algorithms, and the keys of labels in a parser."""

import re
from dataclasses import dataclass
from typing import Any

from paceline.benchmarks.spec.plugin import ConfigError

LONGEST = 100  # characters; MLflow and file systems allow about 250, including added text


def check_name(name: Any, place: str) -> None:
    """Checks that a name can be shown on one line.

    Args:
        name: the name.
        place: what the name belongs to, for the message of an error.

    Raises:
        ConfigError: if it cannot.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{place}: {name!r} is read as a {type(name).__name__}; put it in quotes")
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > LONGEST:
        raise ConfigError(
            f"{place}: {name[:LONGEST]!r} is no name; give 1 to {LONGEST} printable characters,"
            " without a space at either end"
        )


def check_file_name(name: str, place: str) -> None:
    """Checks a name with `check_name`, and that it can also be the name of a file.

    Raises:
        ConfigError: if it cannot.
    """
    check_name(name, place)
    if name.startswith(".") or "/" in name or "\\" in name:
        raise ConfigError(
            f"{place}: {name!r} cannot name a file; leave out slashes and a dot at its beginning"
        )


@dataclass(frozen=True)
class Labels:
    """The labels of a benchmark's algorithms, with a plain key for each.

    The parser reads a dot in a key as a new level, so a label with a dot cannot be a key.

    Attributes:
        keys: the key of each label. A label of word characters only is its own key.
    """

    keys: dict[str, str]

    @classmethod
    def of(cls, algorithms: dict[Any, Any], place: str) -> "Labels":
        """Builds the labels of `algorithms`.

        Raises:
            ConfigError: if a label is not a valid name.
        """
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
        """Returns an option of the command line with the label replaced by its key."""
        for label in sorted(self.keys, key=len, reverse=True):
            start = f"--algorithms.{label}"
            if option.startswith((f"{start}.", f"{start}=")):
                return f"--algorithms.{self.keys[label]}{option[len(start) :]}"
        return option

    def message(self, text: str) -> str:
        """Returns a message of the parser with the keys replaced by their labels."""
        for label, key in self.keys.items():
            if label != key:
                text = re.sub(
                    rf"algorithms\.{key}\b", f"algorithms.{label}".replace("\\", r"\\"), text
                )
        return text
