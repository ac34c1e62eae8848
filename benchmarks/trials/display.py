"""Shows the progress of trials.

On a terminal it shows bars. Elsewhere it prints a line for each trial and one from time to time.
"""

import sys
import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

# If the output goes to a file or a pipe, the width leaves room for the columns of a table. Markup is off
# because names may contain brackets.
console = Console(
    emoji=False, width=None if sys.stdout.isatty() else 180, highlight=False, markup=False
)

SAID_EVERY_S = 30.0  # seconds between two lines of progress if there is no terminal


class Display(Protocol):
    """Shows the progress of trials."""

    def note(self, text: str) -> None: ...

    def trial(self, title: str, index: int, total: int) -> None: ...

    def progress(self, step: int, steps: int, loss: float | None) -> None: ...

    def ended(self, title: str, outcome: str) -> None: ...


class TerminalDisplay:
    """Shows a bar for all trials, a bar for the current trial, and a line for each earlier trial."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._all: TaskID | None = None
        self._task: TaskID | None = None
        self._trial = _Pace("", 0, 0)

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
        self._trial = _Pace(f"[{index + 1}/{total}] {title}", index, total, self._trial)
        if not self.console.is_terminal:
            self.console.print(f"{self._trial.title} ...")
            return
        if self._all is None:
            self._all = self._progress.add_task("all trials", unit="trials")
        self._progress.update(self._all, completed=index, total=total)
        self._task = self._progress.add_task(self._trial.title, total=1, unit="steps")

    def progress(self, step: int, steps: int, loss: float | None) -> None:
        shown = "" if loss is None else f", loss {loss:.4f}"
        if self._task is not None:
            self._progress.update(self._task, completed=step, total=steps, unit=f"steps{shown}")
        elif not self.console.is_terminal and self._trial.is_due():
            self.console.print(
                f"{self._trial.title}: step {step:,} of {steps:,}{shown}; {self._trial.left(step, steps)}"
            )

    def ended(self, title: str, outcome: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self.console.print(f"{title}: {outcome}")


class _Pace:
    """The pace of the current trial and of all trials of a benchmark.

    Args:
        title: the title of the trial.
        index: the index of the trial, from 0.
        total: the number of trials.
        before: the pace of the previous trial, which knows when the first trial began.
    """

    def __init__(self, title: str, index: int, total: int, before: "_Pace | None" = None) -> None:
        self.title, self.index, self.total = title, index, total
        self.began = self._said = time.monotonic()
        self.first_began, self.first_index = self.began, index
        if before is not None and before.total == total and before.index < index:
            self.first_began, self.first_index = before.first_began, before.first_index

    def is_due(self) -> bool:
        """Returns whether the last line about the trial is at least `SAID_EVERY_S` seconds old.

        If so, it takes the present as the time of a new line.
        """
        now = time.monotonic()
        due = now - self._said >= SAID_EVERY_S
        if due:
            self._said = now
        return due

    def left(self, step: int, steps: int) -> str:
        """Returns an estimate of the remaining time from the steps and trials so far."""
        if not 0 < step <= steps:
            return "time left not known yet"
        now = time.monotonic()
        of_trial = (now - self.began) * (steps - step) / step
        done = self.index - self.first_index + step / steps
        of_all = (now - self.first_began) * (self.total - self.index - step / steps) / done
        return f"about {_duration(of_trial)} left of it, {_duration(of_all)} of all"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
