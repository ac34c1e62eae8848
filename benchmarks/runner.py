"""Runs the trials of a benchmark one after the other, and only those that are missing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pandas as pd
from filelock import FileLock, Timeout
from mlflow.tracking import MlflowClient

from benchmarks import ROOT
from benchmarks.config import Benchmark, Trial
from benchmarks.environment import facts, revision
from benchmarks.tracking import BenchmarkRun
from lightning_modules.backend.launch import RankFailed, Ranks
from reports.scoring import score

HUNG_AFTER_S = 600.0
LOG_LIMIT = 20_000  # characters of what the ranks printed, kept with a failure


class Display(Protocol):
    """Where progress is shown."""

    def note(self, text: str) -> None: ...

    def trial(self, trial: Trial, index: int, total: int) -> None: ...

    def progress(self, step: int, steps: int, loss: float | None) -> None: ...

    def ended(self, trial: Trial, outcome: str) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How many trials of a benchmark were found finished, were run now, and failed now."""

    found: int
    ran: int
    failed: int


@contextmanager
def machine(display: Display) -> Iterator[None]:
    """Holds this machine for one benchmark at a time: two at once would spoil each other's times."""
    lock = FileLock(ROOT / ".cache" / "machine.lock")
    Path(lock.lock_file).parent.mkdir(exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        display.note("another benchmark is running on this machine; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def run(benchmark: Benchmark, client: MlflowClient, display: Display) -> Outcome:
    """Runs what is missing of `benchmark`.

    A trial that fails is recorded with its reason and does not stop the others; it is tried again by
    the next call. Interrupted at any point, no finished trial is lost.

    Raises:
        KeyboardInterrupt: after the trial at hand has been ended and recorded as KILLED.
    """
    planned = benchmark.trials()
    display.note(f"preparing the data of {benchmark.workload.name}")
    data = benchmark.workload.data.build()
    data.prepare_data()
    data.setup("fit")
    known = facts(data.fingerprint)
    environment = {name: known[name] for name in ("versions", "hardware")}
    about = {
        "environment": {**environment, "revision": revision()},
        "data": data.description,
    }
    trials = {trial.identity(**known): trial for trial in planned}
    with machine(display):
        title = f"{benchmark.name}: {data.description['name']}"
        parent = BenchmarkRun(client, benchmark.name, benchmark.identity(**known), title)
        parent.describe(benchmark, trials, **about)
        status = "FAILED"
        try:
            outcome = _run_missing(trials, {"facts": known, **about}, parent, display)
            status = "FAILED" if outcome.failed else "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            parent.close(status)
    return outcome


def _run_missing(
    trials: dict[str, Trial], about: dict[str, Any], parent: BenchmarkRun, display: Display
) -> Outcome:
    missing = {i: trials[i] for i in trials if i not in parent.finished_trials()}
    if found := len(trials) - len(missing):
        display.note(f"{found} of {len(trials)} trials are finished already")
    failed = 0
    for index, (trial_id, trial) in enumerate(missing.items()):
        display.trial(trial, index, len(missing))
        run_id = parent.start(trial, trial_id, about["data"])
        record = {"trial_id": trial_id, "trial": asdict(trial), **about}
        failed += not _run_trial(trial, run_id, record, parent, display)
    return Outcome(found, len(missing), failed)


def _rank(trial: Trial, report: Any) -> dict[str, Any]:
    # Imported in the rank: DeepSpeed takes seconds that the parent need not spend.
    from benchmarks.trial import run_rank

    return run_rank(trial, report)


def _run_trial(
    trial: Trial, run_id: str, record: dict[str, Any], parent: BenchmarkRun, display: Display
) -> bool:
    """Runs one trial, records how it ended, and returns whether it finished."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "ranks.log"
        try:
            record_point = partial(parent.point, run_id, time.time())
            curve, results = follow(trial, log, display, record_point)
        except RankFailed as error:
            output = log.read_text(errors="replace")[-LOG_LIMIT:] if log.exists() else ""
            parent.fail(run_id, str(error), details=f"{error.details}\n{output}".strip())
            display.ended(trial, f"FAILED: {error}")
            return False
        except BaseException as error:
            by_user = isinstance(error, KeyboardInterrupt)
            reason = "interrupted by the user" if by_user else f"{type(error).__name__}: {error}"
            parent.fail(run_id, reason, "KILLED")
            display.ended(trial, reason)
            raise
    figures = score(pd.DataFrame(curve), trial.workload.target.loss)
    figures["expected_bytes_per_worker"] = fmean(
        result["expected_bytes_per_worker"] for result in results.values()
    )
    predictions = {rank: result.pop("predictions") for rank, result in results.items()}[0]
    record["result"] = results[0] | {"ranks": [results[rank] for rank in sorted(results)]}
    parent.finish(run_id, figures, record, predictions)
    seconds = figures.get("time_to_target_s")
    display.ended(
        trial,
        f"loss {figures['final_loss']:.4f}, {figures['examples_per_s']:,.0f} examples/s, "
        + ("target not reached" if seconds is None else f"target after {seconds:.1f} s"),
    )
    return True


def follow(
    trial: Trial, log: Path, display: Display, on_point: Callable[[dict[str, float]], None]
) -> tuple[list[dict[str, float]], dict[int, dict[str, Any]]]:
    """Runs a trial's ranks to their end; returns the curve, and the result of each rank.

    Args:
        trial: what to run.
        log: a file that takes what the ranks print.
        display: where progress is shown.
        on_point: called with each point of the curve as soon as it is there.

    Raises:
        RankFailed: a rank died, raised or hung.
    """
    steps = 0
    curve: list[dict[str, float]] = []
    results: dict[int, dict[str, Any]] = {}
    with Ranks(trial.workers, _rank, trial, log=log) as ranks:
        for rank, kind, value in ranks.messages(HUNG_AFTER_S):
            if kind == "result":
                results[rank] = value
            elif rank == 0 and kind == "point":
                curve.append(value)
                on_point(value)
            elif rank == 0:
                steps = value.get("steps", steps)
                display.progress(value["step"], steps, value.get("train_loss"))
    return curve, results
