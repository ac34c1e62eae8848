"""What is pinned for the tests agrees with what pyproject.toml promises."""

import re
import tomllib

from tests import ROOT


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {name.lower(): version for name, version in pairs}


def promised() -> dict[str, str]:
    """The least version of every dependency of the package, by its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parts = (re.match(r"([\w.-]+).*?>=([\d.]+)", text) for text in project["dependencies"])
    return {part[1].lower(): part[2] for part in parts if part}


def test_the_least_versions_are_those_that_are_tested():
    tested = pinned("constraints-lowest.txt")
    torch = {"torch": "2.13.0"}
    assert tested == promised() | torch


def test_every_dependency_is_pinned():
    assert set(promised()) <= set(pinned("constraints.txt"))
