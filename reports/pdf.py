"""Writes the report of a benchmark as a PDF. The report depends only on what MLflow holds."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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

TEMPLATE = Path(__file__).with_name("report.typ")
REASON_LIMIT = 600


def write(results: Results, path: Path) -> list[Path]:
    """Writes the report to `path` and its figures as SVG files to a folder of the same name beside it.

    The same results give the same bytes. The function removes figures of an earlier call that these
    results do not have.

    Returns:
        The path of the PDF, then the paths of the figures.
    """
    figures, reasons = draw(results)
    pdf = typst.compile(
        TEMPLATE,
        format="pdf",
        sys_inputs=inputs(results, figures, reasons),
        ignore_system_fonts=True,
    )
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pdf)
    for name in set(EVERY_NAME) - set(figures):
        (folder / f"{name}.svg").unlink(missing_ok=True)
    for name, content in figures.items():
        (folder / f"{name}.svg").write_bytes(content)
    return [path, *(folder / f"{name}.svg" for name in figures)]


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


def inputs(results: Results, figures: dict[str, bytes], reasons: dict[str, str]) -> dict[str, str]:
    """The input of the template. It is one JSON text, so that Typst reads none of it as markup."""
    told = captions(results)
    content = {
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
    return {"report": json.dumps(content, allow_nan=False)}


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
