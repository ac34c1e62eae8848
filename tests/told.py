"""What a report tells, as its template is given it."""

from typing import Any

import typst

from paceline.reports import pdf
from paceline.reports.figures import catalogue
from paceline.reports.measures.results import Results


def given(results: Results) -> dict[str, Any]:
    """What the template is given, but for the figures."""
    content: dict[str, Any] = pdf.content(results, {}, {})
    return content


def shown(results: Results) -> str:
    """All tables of the laid out document as JSON, without the places where a word may break."""
    inputs = pdf.inputs(pdf.content(results, {}, dict.fromkeys(catalogue.FIGURES, "left out")))
    tables = typst.query(pdf.TEMPLATE, "table", sys_inputs=inputs, ignore_system_fonts=True)
    return str(tables).replace("\u200b", "")


def rows_of(results: Results, title: str) -> dict[str, list[str]]:
    """The cells of a table by their first."""
    (table,) = [each for each in given(results)["tables"] if each["title"].startswith(title)]
    return {row[0]["text"]: [cell["text"] for cell in row[1:]] for row in table["rows"]}
