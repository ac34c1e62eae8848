"""Measures how much time measuring adds to a step, and what a trial costs besides training.

    paceline measure overhead [--pairs 1000] [--repeats 5]

Steps: the baseline and synchronous SGD train on the click-through benchmark. Of every two steps, one runs
with clock, ledger and progress and one without. The program compares the CPU time of the training thread,
because other load on the machine disturbs it less than wall-clock time.

Trials: the program divides the time from opening the trial's run in MLflow to closing it into phases.
While ranks run, the phases are those of rank 0.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import bootstrap

from paceline.benchmarks.spec.benchmark import Benchmark, Trial
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.trials.display import Display, TerminalDisplay, console
from paceline.benchmarks.trials.preparing import prepare
from paceline.benchmarks.trials.runner import run_trial
from paceline.benchmarks.trials.store import open_store
from paceline.benchmarks.trials.tracking import BenchmarkRun
from paceline.lightning_modules.backend.launch import Ranks
from paceline.lightning_modules.backend.local_ranks import start_fork_server

WARM_UP = 20  # first steps, which are not measured
CONFIGURATIONS = [("baseline", 1), ("sync_sgd", 2)]


def plan(workers: int, steps: int, evaluations: int, settings: dict[str, Any]) -> Benchmark:
    """Returns the click-through benchmark, of which a trial on `workers` workers has `steps` steps.

    Args:
        workers: the number of workers.
        steps: the number of steps.
        evaluations: the number of evaluations.
        settings: other settings, by their name in the benchmark's YAML.
    """
    budget = {"examples": steps * 256 * workers, "epochs": 1000, "evaluations": evaluations}
    settings = {f"workload.budget.{name}": value for name, value in budget.items()} | settings
    return load_benchmark("criteo", [f"--{name}={value}" for name, value in settings.items()])


def plan_of(label: str, workers: int, steps: int, evaluations: int) -> Benchmark:
    """Returns the click-through benchmark with a single trial of one algorithm."""
    settings = {f"algorithms.{label}.workers": [workers]}
    return plan(workers, steps, evaluations, settings).only([label])


def metered_rank(trial: Trial, report: Callable[[str, Any], None]) -> list[list[float]]:
    """Does the work of a rank and switches the meters on, off, off, on and so on from step to step.

    Returns:
        The CPU seconds and the wall-clock seconds of every step.
    """
    from pytorch_lightning import Callback, LightningModule, Trainer

    from paceline.benchmarks.trials.meter import Meter
    from paceline.benchmarks.trials.rank import run_rank
    from paceline.lightning_modules.backend.private import communication_backend

    class Switch(Callback):
        def __init__(self) -> None:
            self.at: list[tuple[float, float]] = []
            self.seconds: list[list[float]] = []

        def on_train_start(self, trainer: Trainer, algorithm: LightningModule) -> None:
            (self.meter,) = (c for c in trainer.callbacks if isinstance(c, Meter))  # type: ignore[attr-defined]
            self.clock, self.sender = self.meter.clock, communication_backend()
            self.counted = {
                name: method
                for name, method in vars(self.sender).items()
                if callable(method) and hasattr(type(self.sender), name)
            }

        def on_train_batch_start(self, *_: Any) -> None:
            now = time.thread_time(), time.perf_counter()
            if self.at:
                self.seconds.append([b - a for a, b in zip(self.at[-1], now, strict=True)])
            self.turn(on=len(self.seconds) % 4 in (0, 3))
            self.at.append((time.thread_time(), time.perf_counter()))

        def turn(self, on: bool) -> None:
            """Turns the meters on or off. An attribute of an object hides the method of its class."""
            hidden: list[tuple[Any, str]] = [(self.clock, "enter")]
            hidden += [(self.meter, f"on_train_batch_{when}") for when in ("start", "end")]
            for meter, name in hidden:
                vars(meter).pop(name, None) if on else setattr(meter, name, _nothing)
            for name, method in self.counted.items():
                setattr(self.sender, name, method) if on else vars(self.sender).pop(name, None)

    switch = Switch()
    run_rank(trial, report, [switch])
    return switch.seconds


def _nothing(*_: Any) -> None:
    pass


def meters(label: str, workers: int, pairs: int) -> list[str]:
    """Returns the cells of a row of the table of meters.

    They are the wall-clock and the CPU milliseconds of a step without meters, the microseconds that the
    meters add with their 95 % interval, and this as a share of the step and of its CPU time.
    """
    (trial,) = plan_of(label, workers, WARM_UP + 2 * pairs + 1, 1).trials()
    with Ranks(workers, metered_rank, trial) as ranks:
        steps = {r: value for r, kind, value in ranks.messages() if kind == "result"}[0]
    cpu, wall = np.array(steps[WARM_UP : WARM_UP + 2 * pairs]).T.reshape(2, pairs, 2)
    cpu[1::2], wall[1::2] = cpu[1::2, ::-1], wall[1::2, ::-1]  # now the first of a pair is metered
    added = cpu[:, 0] - cpu[:, 1]
    interval = bootstrap(
        [added], np.median, n_resamples=999, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    step, of_cpu = np.median(wall[:, 1]), np.median(cpu[:, 1])
    return [
        f"{1e3 * step:.2f}",
        f"{1e3 * of_cpu:.2f}",
        f"{1e6 * np.median(added):.0f} ({1e6 * interval.low:.0f} to {1e6 * interval.high:.0f})",
        *(
            f"{np.median(added) / whole:.2%} (up to {interval.high / whole:.2%})"
            for whole in (step, of_cpu)
        ),
    ]


def timed_rank(trial: Trial, report: Callable[[str, Any], None]) -> dict[str, Any]:
    """Does the work of a rank and returns its result, with the time at the end of each phase."""
    marks = [("ranks started", time.monotonic())]

    def mark(name: str, *_: Any, **__: Any) -> None:
        marks.append((name, time.monotonic()))

    from pytorch_lightning.callbacks import LambdaCallback

    from paceline.benchmarks.trials.rank import run_rank

    def reported(kind: str, value: Any) -> None:
        if kind == "progress" and value["step"] == 0 and "steps" in value:
            mark("data and model built")
        report(kind, value)

    mark("modules imported")
    following = LambdaCallback(
        setup=partial(mark, "process group made"),
        on_train_start=partial(mark, "DeepSpeed's engine made"),
        on_validation_start=partial(mark, "training"),
        on_validation_end=partial(mark, "evaluation"),
        on_train_end=partial(mark, "weights hashed, rows predicted"),
    )
    result = run_rank(trial, reported, [following])
    mark("left")
    return {**result, "marks": marks}


class TimedRun(BenchmarkRun):
    """Notes the times at which the run of a trial was opened, its ranks ended and it was recorded."""

    def start(self, *arguments: Any, **options: Any) -> str:
        self.begun = time.monotonic()
        run_id = super().start(*arguments, **options)
        self.opened = time.monotonic()
        return run_id

    def finish(self, *arguments: Any) -> None:
        self.ended = time.monotonic()
        super().finish(*arguments)
        self.recorded = time.monotonic()


def phases(trial: Trial, parent: TimedRun, display: Display) -> dict[str, float]:
    """Runs a trial as benchmarks do and returns the seconds of each phase, by name."""
    ended = run_trial(trial, parent, display, rank=timed_rank)
    marks = [
        ("", parent.begun),
        ("run opened in MLflow", parent.opened),
        *ended.record["result"]["marks"],
        ("processes ended", parent.ended),
        ("run recorded", parent.recorded),
    ]
    spent: Counter[str] = Counter()
    for (_, since), (name, at) in pairwise(marks):
        spent[name] += at - since
    return dict(spent)


def trials(repeats: int, display: Display) -> Iterator[tuple[str, int, list[dict[str, float]]]]:
    """Yields each configuration with the phases of its repeated trials.

    The first trial of a configuration is left out, because it waits for imports.
    """
    with TemporaryDirectory() as folder:
        client = open_store(f"sqlite:///{Path(folder) / 'mlflow.db'}")
        for label, workers in CONFIGURATIONS:
            benchmark = plan_of(label, workers, steps=100, evaluations=2)
            (trial,) = benchmark.trials()
            about = prepare([trial], display)
            parent = TimedRun(client, "overhead", benchmark.identity(), about)
            runs = [phases(trial, parent, display) for _ in range(repeats + 1)][1:]
            yield label, workers, runs


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(
        "paceline measure overhead", description="Measure what measuring and what a trial cost."
    )
    options.add_argument("--pairs", type=int, default=1000, help="of steps")
    options.add_argument("--repeats", type=int, default=5, help="of a trial")
    chosen = options.parse_args(arguments)
    # The server also imports this module, which contains the functions of the ranks. Otherwise every rank
    # would import it.
    start_fork_server("paceline.benchmarks.trials.rank", "paceline.benchmarks.meters.overhead")
    grid = Table(title=f"Trials: seconds, median of {chosen.repeats} (least to greatest)")
    columns = {
        f"{label}, {n}": runs for label, n, runs in trials(chosen.repeats, TerminalDisplay(console))
    }
    for column in ("", *columns):
        grid.add_column(column, justify="right" if column else "left")
    beside = {"training", "evaluation"}
    for name in next(iter(columns.values()))[0]:
        grid.add_row(name, *(_spread([run[name] for run in runs]) for runs in columns.values()))
    grid.add_section()
    grid.add_row(
        "all but training and evaluation",
        *(
            _spread([sum(v for k, v in run.items() if k not in beside) for run in runs])
            for runs in columns.values()
        ),
    )
    console.print(grid)
    grid = Table(title=f"Meters: median of {chosen.pairs} pairs of steps, with its 95 % interval")
    for column in ("", "ms a step", "of CPU", "meters add µs", "of the step", "of its CPU time"):
        grid.add_column(column, justify="right" if column else "left")
    for label, workers in CONFIGURATIONS:
        grid.add_row(f"{label}, {workers}", *meters(label, workers, chosen.pairs))
    console.print(grid)


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
