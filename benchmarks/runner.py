"""Runs the trials of a benchmark one after the other, and only those that are missing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pandas as pd
from filelock import FileLock, Timeout
from mlflow.tracking import MlflowClient

from benchmarks import ROOT
from benchmarks.config import Benchmark, Trial
from benchmarks.environment import code_hash, hardware, revision, versions
from benchmarks.tracking import BenchmarkRun
from lightning_modules.backend.launch import RankFailed, Ranks
from reports.results import trial_runs
from reports.scoring import score

HUNG_AFTER_S = 600.0


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
    trials = benchmark.trials()
    display.note(f"preparing the data of {benchmark.workload.name}")
    data = benchmark.workload.data.build()
    data.prepare_data()
    data.setup("fit")
    facts = {
        "code": code_hash(),
        "data": data.fingerprint,
        "versions": versions(),
        "hardware": hardware(),
    }
    environment = {"versions": versions(), "hardware": hardware(), "revision": revision()}
    identified = {trial.identity(**facts): trial for trial in trials}
    task = benchmark.workload.task.cls
    with machine(display):
        parent = BenchmarkRun(
            client,
            benchmark.name,
            benchmark.identity(**facts),
            f"{benchmark.name}: {data.description['name']}",
        )
        parent.describe(
            benchmark,
            identified,
            data=data.description,
            environment=environment,
            loss_name=task.loss_name,
            metric_name=task.metric_name,
            titles={trial.label: trial.algorithm_class.title for trial in trials},
        )
        status = "FAILED"
        try:
            finished = {
                trial_id
                for trial_id, run in trial_runs(client, benchmark.name).items()
                if run.info.status == "FINISHED"
            }
            missing = {i: trial for i, trial in identified.items() if i not in finished}
            if found := len(identified) - len(missing):
                display.note(f"{found} of {len(identified)} trials are finished already")
            failed = 0
            for index, (trial_id, trial) in enumerate(missing.items()):
                display.trial(trial, index, len(missing))
                run_id = parent.start(trial, trial_id, data.description)
                record = {
                    "trial_id": trial_id,
                    "trial": asdict(trial),
                    "facts": facts,
                    "environment": environment,
                    "data": data.description,
                }
                outcome = _run_trial(trial, run_id, record, parent, display)
                failed += outcome != "FINISHED"
            status = "FAILED" if failed else "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            parent.close(status)
    return Outcome(found, len(missing), failed)


def _rank(trial: Trial, report: Any) -> dict[str, Any]:
    # Imported in the rank: DeepSpeed takes seconds that the parent need not spend.
    from benchmarks.trial import run_rank

    return run_rank(trial, report)


def _run_trial(
    trial: Trial, run_id: str, record: dict[str, Any], parent: BenchmarkRun, display: Display
) -> str:
    """Runs one trial and records how it ended; returns its status in MLflow."""
    started, curve, results = time.time(), [], {}
    steps = 0
    with TemporaryDirectory() as folder:
        log = Path(folder) / "ranks.log"
        try:
            with Ranks(trial.workers, _rank, trial, log=log) as ranks:
                for rank, kind, value in ranks.messages(HUNG_AFTER_S):
                    if kind == "result":
                        results[rank] = value
                    elif rank == 0 and kind == "point":
                        curve.append(value)
                        parent.point(run_id, value, started)
                    elif rank == 0:
                        steps = value.get("steps", steps)
                        display.progress(value["step"], steps, value.get("train_loss"))
        except RankFailed as error:
            output = log.read_text(errors="replace")[-20_000:] if log.exists() else ""
            parent.fail(run_id, str(error), details=f"{error.details}\n{output}".strip())
            display.ended(trial, f"FAILED: {error}")
            return "FAILED"
        except BaseException:
            parent.fail(run_id, "interrupted by the user", "KILLED")
            display.ended(trial, "interrupted")
            raise
    figures = score(pd.DataFrame(curve), trial.workload.target.loss)
    figures["expected_bytes_per_worker"] = results[0]["expected_bytes_per_worker"]
    record["result"] = results[0] | {"ranks": [results[rank] for rank in sorted(results)]}
    parent.finish(run_id, figures, record)
    reached = figures.get("time_to_target_s")
    display.ended(
        trial,
        f"loss {figures['final_loss']:.4f}, {figures['examples_per_s']:,.0f} examples/s, "
        + (f"target after {reached:.1f} s" if reached is not None else "target not reached"),
    )
    return "FINISHED"
