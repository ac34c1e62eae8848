"""The pages of the reference name all that they are about, in the order of the code."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import paceline
from paceline.benchmarks.spec.settings import Budget, Fault, Scale, Sweep, Target
from paceline.datasets.partition import Partition
from paceline.reports.measures.results import COLUMNS, MORE
from paceline.reports.measures.scoring import CURVE

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def table_under(page: str, heading: str) -> list[str]:
    """The first cells, in code, of the table in the section of a page that begins with `heading`."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_the_page_of_columns_has_every_column_in_order() -> None:
    page = (REFERENCE / "columns.md").read_text()
    assert table_under(page, "A trial") == COLUMNS
    assert table_under(page, "Beside them") == MORE
    assert table_under(page, "An evaluation") == CURVE


def test_the_page_of_the_package_has_every_public_name() -> None:
    page = (REFERENCE / "api.md").read_text()
    assert [name for name in paceline.__all__ if not re.search(rf"\b{name}\b", page)] == []


@pytest.mark.parametrize("section", [Budget, Fault, Partition, Scale, Sweep, Target])
def test_a_section_of_the_yaml_documents_each_of_its_fields(section: type) -> None:
    page = (REFERENCE / "settings.md").read_text()
    assert f".. autoclass:: {section.__name__}\n" in page
    told = section.__doc__ or ""
    assert [f.name for f in fields(section) if f"        {f.name}: " not in told] == []
