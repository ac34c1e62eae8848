"""Runs the missing trials of a benchmark, one after the other."""

import math
import os
import random
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from paceline.benchmarks.nodes.remote import NodeLost
from paceline.benchmarks.spec.benchmark import Benchmark, Trial
from paceline.benchmarks.trials.again import why_again
from paceline.benchmarks.trials.checkpoints import Checkpoints
from paceline.benchmarks.trials.conditions import Conditions
from paceline.benchmarks.trials.display import Display
from paceline.benchmarks.trials.following import Rank, Stop, Watch, follow, train
from paceline.benchmarks.trials.lock import machine
from paceline.benchmarks.trials.preparing import prepare
from paceline.benchmarks.trials.rehearsal import RESULTS, rehearsed
from paceline.benchmarks.trials.tracking import BenchmarkRun, check_experiment, finished_trials
from paceline.lightning_modules.backend.launch import RankFailed
from paceline.reports.measures.scoring import score

LOG_LIMIT = 20_000  # characters of the ranks' output that are kept with a failure


@dataclass(frozen=True)
class Outcome:
    """The numbers of trials that had finished before (`found`), were run now and failed now.

    `left_out` is the number of those whose configuration failed in the rehearsal.
    """

    found: int
    ran: int
    failed: int
    left_out: int = 0


def run(
    benchmark: Benchmark, client: MlflowClient, display: Display, keep_going: bool = False
) -> Outcome:
    """Runs the missing trials of `benchmark`, after a rehearsal of their configurations.

    A trial that fails is recorded with the reason and does not stop the others. The next call tries it
    again. A run can be interrupted at any point without losing a finished trial.

    Args:
        benchmark: the benchmark to run.
        client: a client of the MLflow store.
        display: shows the progress.
        keep_going: if True, the configurations that fail in the rehearsal are left out.

    Raises:
        RehearsalFailed: if a configuration fails in the rehearsal and `keep_going` is False.
        KeyboardInterrupt: if the user interrupts the run. The current trial has then been ended and
            recorded as KILLED.
    """
    check_experiment(client, benchmark.name)
    planned = benchmark.trials()
    for reason in dict.fromkeys(benchmark.left_out().values()):
        display.note(f"left out: {reason}")
    about = prepare(planned, display)
    with machine(display):
        finished = partial(finished_trials, client, benchmark.name)
        able = rehearsed(planned, about["facts"], display, keep_going, finished)
        trials = {trial.identity(**about["facts"]): trial for trial in able}
        identity = benchmark.identity(**about["facts"])
        with BenchmarkRun(client, benchmark.name, identity, about, display.note) as parent:
            parent.describe(benchmark, trials)
            outcome = _run_missing(trials, parent, display)
            parent.failed = outcome.failed > 0
    return replace(outcome, left_out=len(planned) - len(able))


def _run_missing(trials: dict[str, Trial], parent: BenchmarkRun, display: Display) -> Outcome:
    finished = parent.finished_trials()
    missing = in_random_order({i: trial for i, trial in trials.items() if i not in finished})
    if found := len(trials) - len(missing):
        display.note(f"{found} of {len(trials)} trials are finished already")
    for line in why_again(missing.values(), parent.about["facts"], parent.client, parent.name):
        display.note(line)
    failed = 0
    for index, trial in enumerate(missing.values()):
        display.trial(trial.title, index, len(missing))
        ended = run_trial(trial, parent, display)
        display.ended(trial.title, ended.summary)
        failed += ended.failure is not None
    return Outcome(found, len(missing), failed)


def in_random_order(trials: dict[str, Trial]) -> dict[str, Trial]:
    """Returns trials in an order that is drawn for each seed, from that seed.

    A machine changes while a benchmark runs. In a fixed order, the same algorithm would always be timed
    first, or always after another one. The seeds stay in order, so an interrupted benchmark has complete
    comparisons for its first seeds.
    """
    seeds = list(dict.fromkeys(trial.seed for trial in trials.values()))

    def place(item: tuple[str, Trial]) -> tuple[int, float]:
        trial = item[1]
        return seeds.index(trial.seed), random.Random(trial.title).random()

    return dict(sorted(trials.items(), key=place))


@dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Attributes:
        run_id: the id of the trial's run in MLflow.
        curve: one dictionary for each evaluation before the end of the trial.
        failure: why the trial did not finish, or None if it finished.
        error: the name of the exception that ended the trial: that of a rank, or `Stop`.
        figures: the figures of a finished trial, by their names in `paceline.reports.measures.scoring`.
        record: the record of a finished trial. It contains the results of the ranks unless the trial was
            stopped.
        predictions: the predictions of a finished trial, by the name of the model that made them.
    """

    run_id: str
    curve: list[dict[str, float]]
    failure: str | None = None
    error: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The outcome in a few words."""
        if self.failure:
            return self.failure if self.error == "Stop" else f"FAILED: {self.failure}"
        parts = [
            f"loss {self.figures['final_loss']:.4f}",
            f"{self.figures['examples_per_s']:,.0f} examples/s",
        ]
        match self.figures.get("target_reached"):
            case 1.0:
                parts.append(f"target after {self.figures['time_to_target_s']:.1f} s")
            case 0.0:
                parts.append("target not reached")
        return ", ".join(parts)


def run_trial(
    trial: Trial,
    parent: BenchmarkRun,
    display: Display,
    kind: str = "trial",
    under: str | None = None,
    watch: Watch | None = None,
    rank: Rank | None = None,
) -> Ended:
    """Runs one trial and records how it ended.

    A trial that was interrupted goes on from its latest checkpoint.

    Args:
        trial: the trial to run.
        parent: the run of the benchmark that the trial belongs to.
        display: shows the progress.
        kind: the kind of the trial's run in MLflow.
        under: the run in which the trial's run is nested. The default is the parent's.
        watch: a function that is called with each point of the curve. It may raise `Stop`.
        rank: the function that each rank runs. By default, it trains and saves checkpoints.
    """
    trial_id = trial.identity(**parent.about["facts"])
    run_id = parent.start(trial, trial_id, kind, under)
    kept = Checkpoints(trial_id) if rank is None else None
    if kept:
        rank = partial(train, folder=kept.folder, start=kept.start)
    record = {"trial_id": trial_id, "trial": asdict(trial), **parent.about}
    record["facts"] = trial.own_facts(parent.about["facts"])
    curve: list[dict[str, float]] = []
    results: dict[int, dict[str, Any]] = {}
    started, conditions = time.time(), Conditions()

    def on_point(point: dict[str, float]) -> None:
        curve.append(point)
        parent.point(run_id, started, point)
        if watch is not None:
            watch(point)

    with TemporaryDirectory() as folder:
        log = Path(folder) / "ranks.log"
        try:
            results = follow(trial, log, display, on_point, rank or train)
        except RankFailed as error:
            output = log.read_text(errors="replace")[-LOG_LIMIT:] if log.exists() else ""
            parent.fail(run_id, str(error), details=f"{error.details}\n{output}".strip())
            if kept:
                kept.after_failure(for_next=kind == "trial" and error.error not in RESULTS)
            return Ended(parent.outbox.id_of(run_id), curve, str(error), error.error)
        except NodeLost as error:
            parent.fail(run_id, str(error))
            return Ended(parent.outbox.id_of(run_id), curve, str(error), "NodeLost")
        except Stop as stop:
            if kept:
                kept.remove()
            if stop.reason:
                parent.fail(run_id, stop.reason, "KILLED")
                return Ended(parent.outbox.id_of(run_id), curve, stop.reason, "Stop")
        except BaseException as error:
            by_user = isinstance(error, KeyboardInterrupt)
            reason = "interrupted by the user" if by_user else f"{type(error).__name__}: {error}"
            parent.fail(run_id, reason, "KILLED")
            raise
    figures = score(pd.DataFrame(curve), trial.workload.target.loss)
    predictions = {}
    if results:
        figures["expected_bytes_per_worker"] = fmean(
            result["expected_bytes_per_worker"] for result in results.values()
        )
        tested = results[0]["tested"]
        figures |= {name: value for name, value in tested.items() if math.isfinite(value)}
        predictions = {rank: result.pop("predictions") for rank, result in results.items()}[0]
        seconds = [(own["node"], own.pop("process_seconds")) for own in results.values()]
        here = os.uname().nodename
        record["conditions"] = conditions.facts(sum(own for node, own in seconds if node == here))
        record["result"] = results[0] | {"ranks": [results[rank] for rank in sorted(results)]}
    parent.finish(run_id, figures, record, predictions)
    if kept:
        kept.remove()
    return Ended(parent.outbox.id_of(run_id), curve, None, "", figures, record, predictions)
