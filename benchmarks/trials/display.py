"""Progress on the terminal while trials run, one line a trial where there is no terminal."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

# Where the output goes to a file or a pipe, a table still has room for its columns.
# Names may hold brackets, which are no markup.
console = Console(width=None if sys.stdout.isatty() else 150, highlight=False, markup=False)


class TerminalDisplay:
    """A bar for the trial at hand; the trials before it stay above as lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn(
                "{task.completed:.0f}/{task.total:.0f} steps  {task.fields[loss]}", markup=False
            ),
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
        self.console.print(text)

    def trial(self, title: str, index: int, total: int) -> None:
        title = f"[{index + 1}/{total}] {title}"
        if self.console.is_terminal:
            self._task = self._progress.add_task(title, total=1, loss="")
        else:
            self.console.print(f"{title} ...")

    def progress(self, step: int, steps: int, loss: float | None) -> None:
        if self._task is not None:
            shown = "" if loss is None else f"loss {loss:.4f}"
            self._progress.update(self._task, completed=step, total=steps, loss=shown)

    def ended(self, title: str, outcome: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self.console.print(f"{title}: {outcome}")
