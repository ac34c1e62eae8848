"""The documentation names files, classes and commands that exist."""

import pkgutil
import re
import shlex
from pathlib import Path

import pytest

from paceline.benchmarks.cli.options import parser
from paceline.lightning_modules import find_algorithms
from tests import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)")
FILE = re.compile(
    r"(?<![\w./(-])((?:benchmarks|datasets|docs|lightning_modules|reports|tests)/[\w./*-]+)"
)
CLASS = re.compile(r"\bpaceline(?:\.\w+)+:\w+")
COMMAND = re.compile(r"^    (?:unshare -Urn )?paceline ((?:.*\\\n)*.*)$", re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=named)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_link_leads_to_a_file(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_path_is_that_of_a_file(page: Path) -> None:
    paths = {path.rstrip(".") for path in FILE.findall(page.read_text())}
    written = {path for path in paths if path.startswith("reports/output")}
    assert not [path for path in sorted(paths - written) if not list(ROOT.glob(path))]


def test_every_class_can_be_imported(page: Path) -> None:
    for name in CLASS.findall(page.read_text()):
        assert isinstance(pkgutil.resolve_name(name), type)


def test_every_command_is_one(page: Path) -> None:
    for command in COMMAND.findall(page.read_text()):
        parser().parse_known_args(shlex.split(command.replace("\\\n", " ")))


def test_the_table_of_what_each_algorithm_needs_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "lightning_module.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \| (a loss|logits and labels) \| ([\d to]+) \|$", page, re.MULTILINE
    )
    found = {
        name: (
            "logits and labels" if cls.needs_logits else "a loss",
            " to ".join(map(str, sorted({cls.zero_stages[0], cls.zero_stages[-1]}))),
        )
        for name, cls in find_algorithms().items()
    }
    assert {name: (needs, stages) for name, needs, stages in rows} == found
