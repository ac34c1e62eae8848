"""Progress on the terminal while trials run, one line a trial where there is no terminal."""

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from reports.results import Results

if TYPE_CHECKING:  # what a table of results need not wait for
    from benchmarks.rerun import Rerun


class TerminalDisplay:
    """A bar for the trial at hand; the trials before it stay above as lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps  {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "TerminalDisplay":
        if self.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def trial(self, title: str, index: int, total: int) -> None:
        title = f"[{index + 1}/{total}] {title}"
        if self.console.is_terminal:
            self._task = self._progress.add_task(title, total=1, loss="")
        else:
            self.console.print(f"{title} ...", highlight=False, markup=False)

    def progress(self, step: int, steps: int, loss: float | None) -> None:
        if self._task is not None:
            shown = "" if loss is None else f"loss {loss:.4f}"
            self._progress.update(self._task, completed=step, total=steps, loss=shown)

    def ended(self, title: str, outcome: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self.console.print(f"{title}: {outcome}", highlight=False, markup=False)


def comparison(rerun: "Rerun") -> Table:
    """What a rerun gave beside what is recorded."""
    grid = Table(title=f"rerun of {rerun.run_id}: {rerun.verdict}")
    for column in ("", "recorded", "now", ""):
        grid.add_column(column)
    for name, (recorded, now) in rerun.figures.items():
        shown = [f"{v:.10g}" if isinstance(v, float) else str(v)[:16] for v in (recorded, now)]
        grid.add_row(name, *shown, "equal" if recorded == now else "differs")
    for name, (recorded, now) in rerun.causes.items():
        grid.add_row(f"[dim]{name}[/dim]", str(recorded), str(now), "may be why")
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
