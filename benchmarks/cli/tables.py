"""The tables of the terminal: results, comparisons of two runs, and the outcome of a rerun."""

import math
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from paceline.reports.measures import compare
from paceline.reports.measures.groups import any_oversubscribed, has_test_part, target
from paceline.reports.measures.remarks import MEANING, remarked
from paceline.reports.measures.results import Results

if TYPE_CHECKING:  # importing it takes seconds, and a table of results does not need it
    from paceline.benchmarks.trials.rerun import Rerun

RUN_DIGITS = 8  # digits shown of a run's id, as in the report; `rerun` accepts them
ONLY_WHERE_THEY_VARY = {"seed": "seed", "status": "status"}


def comparison(rerun: "Rerun") -> Table:
    """Returns a table of the results of a rerun beside the recorded ones."""
    grid = Table(title=f"rerun of {rerun.run_id}: {rerun.verdict}")
    for column in ("", "recorded", "now", ""):
        grid.add_column(column)
    for name, (recorded, now) in rerun.figures.items():
        shown = [f"{v:.10g}" if isinstance(v, float) else str(v)[:16] for v in (recorded, now)]
        grid.add_row(name, *shown, "equal" if recorded == now else "differs")
    for name, (recorded, now) in rerun.causes.items():
        grid.add_row(Text(name, style="dim"), str(recorded), str(now), "may be why")
    return grid


def differences(before: Results, after: Results) -> Table:
    """Returns a table of the settings and facts that differ between two runs."""
    grid = Table("what differs", before.run_id[:8], after.run_id[:8], title="before and after")
    for name, values in compare.differences(before, after).items():
        grid.add_row(name, *("–" if value is None else Text(str(value)) for value in values))
    if not grid.rows:
        grid.add_row("nothing", "", "")
    return grid


def changes(before: Results, after: Results) -> Table:
    """Returns a table of the ratios of two runs, after over before, with a verdict for each.

    It has a row for each figure of each configuration that is in both runs.
    """
    compared = compare.compare(before, after)
    columns = ("algorithm", "workers", "figure", "after / before", "verdict")
    grid = Table(*columns, title="after over before")
    for one in compared:
        shown = [one.algorithm, str(one.workers), one.figure.title, str(one.ratio)]
        if math.isnan(one.ratio.value):
            shown[-1] = "–"
        grid.add_row(*shown, one.verdict)
    tested = sum(not math.isnan(one.ratio.p) for one in compared)
    grid.caption = (
        "Geometric mean over seeds, each with its own 95 % interval; verdicts are corrected for all"
        f" {tested} comparisons. What changes between two sessions on a machine is in no interval."
    )
    for side, only in zip(("before", "after"), compare.alone(before, after), strict=True):
        if only:
            named = ", ".join(f"{algorithm}@{workers}" for algorithm, workers in only)
            grid.caption += f" Only {side}: {named}."
    return grid


def _varies(results: Results, column: str) -> bool:
    values = set(results.trials[column])
    return len(values) > 1 or (column == "status" and values != {"FINISHED"})


def table(results: Results) -> Table:
    """Returns the trials of a benchmark as a table for the terminal."""
    to_target = {
        "steps_to_target": "steps to target",
        "time_to_target_s": "seconds to target",
        "modelled_time_to_target_s": f"modelled, {results.link}",
    }
    # A column that is the same in every row would only take room from the others.
    several = {
        name: title for name, title in ONLY_WHERE_THEY_VARY.items() if _varies(results, name)
    }
    # The test loss is that of the model with the best loss, so it takes its place.
    best = "test" if has_test_part(results) else "best"
    shown = {
        "algorithm": "algorithm",
        "workers": "workers",
        **several,
        **({} if target(results) is None else to_target),
        "examples_per_s": "examples/s",
        "bytes_sent_per_worker": "MB sent/worker",
        f"{best}_loss": f"{best} {results.benchmark['loss_name']}",
        "final_loss": f"final {results.benchmark['loss_name']}",
        "final_metric": f"final {results.benchmark['metric_name']}",
        "run_id": "run",
    }
    formats = {
        "steps_to_target": "{:,.0f}",
        "time_to_target_s": "{:.1f}",
        "modelled_time_to_target_s": "{:.1f}",
        "examples_per_s": "{:,.0f}",
        "best_loss": "{:.4f}",
        "final_loss": "{:.4f}",
        "final_metric": "{:.4f}",
        "test_loss": "{:.4f}",
    }
    grid = Table(
        title=Text(f"{results.benchmark['name']}: {results.benchmark['data']['name']}"),
        caption_justify="left",
    )
    numbers = {remark: i for i, remark in enumerate(remarked(results.trials), start=1)}
    for column, title in shown.items():
        names = column in ("algorithm", "status")
        widest = max(map(len, title.split()))
        side: Literal["left", "right"] = "left" if names else "right"
        grid.add_column(title, justify=side, min_width=widest, no_wrap=names)
    for _, row in results.trials.iterrows():
        cells = []
        for column in shown:
            value = row[column]
            if column == "run_id" and isinstance(value, str):
                value = value[:RUN_DIGITS]
            if column == "bytes_sent_per_worker":
                value = value / 1e6
                cells.append("–" if value != value else f"{value:,.1f}")
            elif value is None or value != value:
                cells.append("–")
            else:
                cells.append(formats.get(column, "{}").format(value))
        if row["oversubscribed"] is True:
            cells[list(shown).index("examples_per_s")] += "*"
        cells[0] += "".join(f" [{numbers[remark]}]" for remark in remarked(row.to_frame().T))
        grid.add_row(*map(Text, cells))
    told = [f"[{number}] {remark}: {MEANING[remark]}" for remark, number in numbers.items()]
    if any_oversubscribed(results.trials):
        told.insert(0, "* more ranks than cores: wall-clock speedup says nothing here")
    grid.caption = Text("\n".join(told)) if told else None
    return grid
