"""Writes the report of a benchmark as a PDF, as an HTML page, and its numbers as tables.

The report depends only on what MLflow holds.
"""

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import typst
from matplotlib.figure import Figure

from paceline.reports.figures.catalogue import EVERY_NAME, figures_of, svg
from paceline.reports.measures.groups import NothingToDraw, names, si_bytes
from paceline.reports.measures.results import Results
from paceline.reports.text.answer import NONE, Format, answer, question, scope
from paceline.reports.text.captions import captions
from paceline.reports.text.facts import facts
from paceline.reports.text.summary import notes, remarks, summary
from paceline.reports.text.tables import tables

TEMPLATE, PAGE = (Path(__file__).with_name(name) for name in ("report.typ", "report.html"))
REASON_LIMIT = 600


def write(results: Results, path: Path) -> list[Path]:
    """Writes the report to `path`, and as an HTML page of the same name beside it.

    A folder of the same name gets the figures as SVG files, and the trials and curves as CSV and Parquet.
    The same results give the same bytes. The function removes figures of an earlier call that these
    results do not have.

    Returns:
        The paths of the PDF and the page, then those of the tables and figures.
    """
    figures, reasons = draw(results)
    told = content(results, figures, reasons)
    pdf = typst.compile(TEMPLATE, format="pdf", sys_inputs=inputs(told), ignore_system_fonts=True)
    folder, page = path.with_suffix(""), path.with_suffix(".html")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pdf)
    page.write_text(html(told), encoding="utf-8")
    for name in set(EVERY_NAME) - set(figures):
        (folder / f"{name}.svg").unlink(missing_ok=True)
    for name, drawing in figures.items():
        (folder / f"{name}.svg").write_bytes(drawing)
    written = _write_tables(results, folder)
    return [path, page, *written, *(folder / f"{name}.svg" for name in figures)]


def _write_tables(results: Results, folder: Path) -> list[Path]:
    """Writes the trials and the curves as CSV and Parquet, and returns the paths."""
    written = []
    for name, frame in (("trials", results.trials), ("curves", results.curves)):
        paths = [folder / f"{name}.csv", folder / f"{name}.parquet"]
        frame.to_csv(paths[0], index=False)
        # A column of objects may hold several types, which Parquet does not allow.
        frame.convert_dtypes().to_parquet(paths[1], index=False)
        written += paths
    return written


def html(told: Mapping[str, Any]) -> str:
    """Returns the content of a report as one HTML page, which needs no other file."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    return environment.from_string(PAGE.read_text(encoding="utf-8")).render(told)


def draw(
    results: Results, functions: Mapping[str, Callable[[Results], Figure]] | None = None
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Draws the figures of a report.

    Returns:
        The figures that can be drawn, as SVG by name, and for each other figure the reason why it
        cannot be drawn.
    """
    figures, reasons = {}, {}
    for name, function in (functions or figures_of(results)).items():
        try:
            figures[name] = svg(function, results)
        except NothingToDraw as error:
            reasons[name] = str(error)
    return figures, reasons


def inputs(told: Mapping[str, Any]) -> dict[str, str]:
    """The input of Typst's template. It is one JSON text, so that none of it is read as markup."""
    return {"report": json.dumps(told, allow_nan=False)}


def content(results: Results, figures: dict[str, bytes], reasons: dict[str, str]) -> dict[str, Any]:
    """The content of the report for both templates: its texts, figures and tables.

    Args:
        results: the results of a benchmark.
        figures: the figures as SVG, by name.
        reasons: why the other figures could not be drawn, by name.
    """
    told = captions(results)
    return {
        "title": _title(results),
        "facts": facts(results),
        "question": question(results),
        "answer": answer(results),
        "scope": scope(results),
        "summary": summary(results),
        "remarks": remarks(results),
        "notes": notes(results),
        "figures": [
            {
                "title": told[name][0],
                "caption": told[name][1],
                "svg": figures[name].decode() if name in figures else None,
                "lacking": reasons.get(name),
            }
            for name in figures_of(results)
        ],
        "tables": tables(results),
        "trials": _trials(results),
        "run_id": results.run_id,
        "name": results.benchmark["name"],
    }


def _title(results: Results) -> str:
    kind = " (synthetic data)" if results.benchmark["data"]["synthetic"] else ""
    name = results.benchmark["name"]
    if "sweep" in results.benchmark:
        return f"Sweep {name.removesuffix('-sweep')}{kind}"
    return f"Benchmark {name}{kind}"


def _trials(results: Results) -> dict[str, Any]:
    """The table of all planned trials, with how each one ended."""
    rows = []
    for _, trial in results.trials.iterrows():
        crowded = "†" if trial["oversubscribed"] is True else ""
        cells = [
            names(results)[trial["algorithm"]],
            f"{trial['workers']}{crowded}",
            str(trial["seed"]),
            trial["status"].lower(),
            _cell(trial["steps_to_target"], "{:,.0f}".format),
            _cell(trial["time_to_target_s"], "{:,.1f}".format),
            _cell(trial["examples_per_s"], "{:,.0f}".format),
            _cell(trial["bytes_sent_per_worker"], si_bytes),
            _cell(trial["best_loss"], "{:.4f}".format),
            _cell(trial["final_loss"], "{:.4f}".format),
            _cell(trial["final_metric"], "{:.4f}".format),
            _cell(trial["weights_sha256"], lambda value: value[:8]),
            _cell(trial["run_id"], lambda value: value[:8]),
        ]
        rows.append({"cells": cells, "remark": _remark(trial)})
    return {
        "note": "The column weights shows the first digits of the SHA-256 of the trained model. Two"
        " trials with the same hash have bitwise equal models. The column run shows the first digits of"
        " the trial's run in MLflow, which holds its curve, its configuration and its ledger.",
        "header": [
            "algorithm",
            "workers",
            "seed",
            "status",
            "steps to target",
            "seconds to target",
            "examples/s",
            "sent per worker",
            "best loss",
            "final loss",
            f"final {results.benchmark['metric_name']}",
            "weights",
            "run",
        ],
        "rows": rows,
    }


def _cell(value: Any, shown: Format) -> str:
    return NONE if pd.isna(value) else shown(value)


def _remark(trial: "pd.Series[Any]") -> str | None:
    """The text under a trial's row: the remarks on it, or the reason why it did not finish."""
    if trial["status"] == "FINISHED":
        return None if pd.isna(trial["remarks"]) else str(trial["remarks"])
    if trial["status"] == "MISSING":
        return "never started"
    if trial["status"] == "RUNNING":
        return "not ended when this report was drawn"
    if pd.isna(trial["failure"]):
        return "no reason was recorded"
    reason = " ".join(str(trial["failure"]).split())
    if len(reason) > REASON_LIMIT:
        reason = f"{reason[:REASON_LIMIT]}… (the whole of it is with the run in MLflow)"
    return reason
