"""The table of the first page: one row for each configuration, with the remarks on it."""

from typing import Any

import pandas as pd

from paceline.reports.measures.groups import (
    any_oversubscribed,
    configurations,
    finished,
    has_test_part,
    listed,
    names,
    several_seeds,
    si_bytes,
    target,
)
from paceline.reports.measures.remarks import MEANING, UNRANKED, remarked
from paceline.reports.measures.results import ENDED, Results
from paceline.reports.text.answer import NONE, Format

MARKS = dict(zip(MEANING, "¹²³⁴⁵", strict=True))


def summary(results: Results) -> dict[str, Any]:
    """The table: one row for each algorithm and number of workers, with means over its finished seeds.

    Returns:
        `header`, `widths` (relative widths of the columns) and `rows`.
    """
    facts, goal = results.benchmark, target(results)
    columns: list[tuple[str, float]] = [("algorithm", 2.5), ("workers", 1.2)]
    if goal is None:
        columns += [("seeds finished", 1.3), ("bytes sent per worker", 1.9)]
    else:
        columns += [
            ("target reached", 1.2),
            ("steps to target", 1.5),
            ("seconds to target", 1.4),
            (f"modelled, {results.link}", 2.0),
            ("sent per worker to target", 1.9),
        ]
    columns.append((f"best {facts['loss_name']}", 2.1))
    if has_test_part(results):
        columns.append((f"test {facts['loss_name']}", 2.1))
    else:
        columns.append(("at step", 1.4))
    columns += [
        (f"final {facts['loss_name']}", 2.1),
        (f"final {facts['metric_name']}", 2.1),
    ]
    rows = [_row(results, *group) for group in configurations(results.trials)]
    header, widths = zip(*columns, strict=True)
    return {"header": list(header), "widths": list(widths), "rows": rows}


def _row(results: Results, label: str, workers: int, trials: pd.DataFrame) -> list[str]:
    whole = trials[trials["status"] == "FINISHED"]
    over = trials[trials["status"].isin(ENDED)]
    marks = " ".join(MARKS[remark] for remark in remarked(trials))
    cells = [
        f"{names(results)[label]} {marks}".strip(),
        f"{workers}{'†' if any_oversubscribed(whole) else ''}",
    ]
    if target(results) is None:
        cells.append(f"{len(whole)} of {len(trials)}")
        cells.append(mean_and_range(whole["bytes_sent_per_worker"], si_bytes))
    else:
        reached = int(over["target_reached"].eq(True).sum())
        cells += [
            f"{reached} of {len(over)}" if len(over) else NONE,
            mean_and_range(whole["steps_to_target"], "{:,.0f}".format),
            mean_and_range(whole["time_to_target_s"], "{:,.1f}".format),
            mean_and_range(whole["modelled_time_to_target_s"], "{:,.1f}".format),
            mean_and_range(whole["bytes_to_target"], si_bytes),
        ]
    if has_test_part(results):
        beside = mean_and_range(whole["test_loss"], "{:.4f}".format)
    else:
        beside = mean_and_range(whole["best_step"], "{:,.0f}".format)
    return [
        *cells,
        mean_and_range(whole["best_loss"], "{:.4f}".format),
        beside,
        mean_and_range(whole["final_loss"], "{:.4f}".format),
        mean_and_range(whole["final_metric"], "{:.4f}".format),
    ]


def mean_and_range(values: "pd.Series[float]", shown: Format) -> str:
    """The mean. If the values differ, a second line has the least and the greatest."""
    values = values.dropna().astype(float)
    if values.empty:
        return NONE
    least, greatest = shown(values.min()), shown(values.max())
    if least == greatest:
        return least
    number, _, unit = least.partition(" ")
    low = number if greatest.endswith(f" {unit}") else least
    return f"{shown(values.mean())}\n{low}–{greatest}"


def remarks(results: Results) -> list[str]:
    """The remarks on rows of the summary, each with its mark and its meaning."""
    told = []
    for remark in remarked(results.trials):
        unranked = " Not ranked." if remark in UNRANKED else ""
        told.append(f"{MARKS[remark]} {remark.capitalize()}: {MEANING[remark]}.{unranked}")
    return told


def notes(results: Results) -> list[str]:
    """Notes on how to read the summary."""
    told = []
    if target(results) is not None:
        told.append(
            "A target is reached at the first evaluation at or below it. A difference of less than one"
            " evaluation interval does not count. A trial that failed or diverged missed the target."
        )
    if has_test_part(results):
        told.append("The test loss is that of the model with the lowest validation loss.")
    told.append("Seconds are training time without evaluation, as the maximum over ranks.")
    if several_seeds(results):
        told.append(
            "Figures are means over finished seeds, with the smallest and the largest value. Intervals"
            " are 95 % intervals and are not corrected for many comparisons."
        )
    if any_oversubscribed(finished(results)):
        told.append(
            "† There were more ranks than cores, so the ranks took turns. Their measured seconds mean"
            " nothing, and only their modelled seconds are compared."
        )
    entries = results.benchmark["benchmark"]["algorithms"]
    if own := [name for label, name in names(results).items() if entries[label].get("budget")]:
        told.append(
            f"{listed(own)} {'has a budget of its' if len(own) == 1 else 'have budgets of their'} own, so"
            " final losses are not after the same number of examples."
        )
    return told
