"""The tables of the terminal: results, and what came out of a rerun."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from paceline.reports.measures.results import Results

if TYPE_CHECKING:  # what a table of results need not wait for
    from paceline.benchmarks.trials.rerun import Rerun

RUN_DIGITS = 8  # of a run's id, as in the report; `rerun` takes them


def comparison(rerun: "Rerun") -> Table:
    """What a rerun gave beside what is recorded."""
    grid = Table(title=f"rerun of {rerun.run_id}: {rerun.verdict}")
    for column in ("", "recorded", "now", ""):
        grid.add_column(column)
    for name, (recorded, now) in rerun.figures.items():
        shown = [f"{v:.10g}" if isinstance(v, float) else str(v)[:16] for v in (recorded, now)]
        grid.add_row(name, *shown, "equal" if recorded == now else "differs")
    for name, (recorded, now) in rerun.causes.items():
        grid.add_row(Text(name, style="dim"), str(recorded), str(now), "may be why")
    return grid


def table(results: Results) -> Table:
    """The trials of a benchmark as a table for the terminal."""
    shown = {
        "algorithm": "algorithm",
        "workers": "workers",
        "seed": "seed",
        "status": "status",
        "steps_to_target": "steps to target",
        "time_to_target_s": "seconds to target",
        "modelled_time_to_target_s": f"modelled, {results.link}",
        "examples_per_s": "examples/s",
        "bytes_sent_per_worker": "MB sent/worker",
        "final_loss": f"final {results.benchmark['loss_name']}",
        "final_metric": f"final {results.benchmark['metric_name']}",
        "run_id": "run",
    }
    formats = {
        "steps_to_target": "{:,.0f}",
        "time_to_target_s": "{:.1f}",
        "modelled_time_to_target_s": "{:.1f}",
        "examples_per_s": "{:,.0f}",
        "final_loss": "{:.4f}",
        "final_metric": "{:.4f}",
    }
    grid = Table(title=f"{results.benchmark['name']}: {results.benchmark['data']['name']}")
    for column, title in shown.items():
        names = column in ("algorithm", "status")
        grid.add_column(title, justify="left" if names else "right", no_wrap=names)
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
        grid.add_row(*cells)
    if (results.trials["oversubscribed"] == True).any():  # noqa: E712
        grid.caption = "* more ranks than cores: wall-clock speedup says nothing here"
    return grid
