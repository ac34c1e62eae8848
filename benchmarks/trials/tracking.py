"""Writes benchmarks and trials to MLflow. Only the parent process does this, and only this module."""

import io
import json
import os
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
    MLFLOW_USER,
)
from numpy.typing import NDArray

from paceline.benchmarks.spec.benchmark import Benchmark, Trial
from paceline.benchmarks.trials.addresses import masked
from paceline.benchmarks.trials.environment import is_gone, this_process
from paceline.benchmarks.trials.outbox import Note, Outbox, send_what_others_left
from paceline.benchmarks.trials.store import StoreError
from paceline.home import home
from paceline.reports.measures.results import (
    BENCHMARK_FILE,
    BENCHMARK_ID,
    FAILURE,
    KIND,
    PREDICTIONS_FILE,
    PROCESS,
    RECORD_FILE,
    STUDY,
    TRIAL_ID,
    search,
    trial_runs,
)
from paceline.reports.measures.scoring import CURVE

PARAMETERS_A_REQUEST, VALUE_LIMIT, TAG_LIMIT, DIGEST_LIMIT = 100, 6000, 5000, 36


def _unheard(_: str) -> None:
    """Ignores a note."""


def finished_trials(client: MlflowClient, name: str) -> set[str]:
    """Returns the ids of the finished trials of all benchmarks of that name."""
    runs = trial_runs(client, name)
    return {trial_id for trial_id, run in runs.items() if run.info.status == "FINISHED"}


def check_experiment(client: MlflowClient, name: str) -> None:
    """Checks that the experiment of a benchmark can take runs.

    Raises:
        StoreError: if the experiment of that name has been deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise StoreError(
            f"the experiment {name!r} has been deleted in MLflow; bring it back with"
            f" `mlflow experiments restore --experiment-id {found.experiment_id}`, or give another --name"
        )


class BenchmarkRun:
    """The parent run of one benchmark in MLflow. Each trial is a child run of it.

    As a context manager, it closes the run with a status according to how the block ended. A trial
    continues while the store does not answer. Its writes then wait on disk, see
    `paceline.benchmarks.trials.outbox`.

    Args:
        client: a client of the store.
        name: the name of the benchmark and of its experiment.
        benchmark_id: the identity of the benchmark. An existing run with this identity is continued.
        about: what the records of its trials have in common, the result of
            `paceline.benchmarks.trials.preparing.prepare`.
        note: a function that is called with a message when the store stops answering and when it answers
            again.

    Attributes:
        failed: whether a trial failed. The block sets it.
    """

    def __init__(
        self,
        client: MlflowClient,
        name: str,
        benchmark_id: str,
        about: dict[str, Any],
        note: Note = _unheard,
    ) -> None:
        self.client, self.name, self.about, self.failed = client, name, about, False
        send_what_others_left(client, note)
        self.outbox = Outbox(client, note)
        self.experiment_id = self._experiment(name)
        self._abandon_stale()
        title = f"{name}: {about['data']['name']}"
        tags = {KIND: "benchmark", BENCHMARK_ID: benchmark_id, MLFLOW_RUN_NAME: title}
        found = client.search_runs(
            [self.experiment_id], f"tags.`{BENCHMARK_ID}` = '{benchmark_id}'", max_results=1
        )
        if found:
            self.run_id = found[0].info.run_id
            client.set_tag(self.run_id, PROCESS, this_process())
            client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = self._create(tags)
            self.outbox.settle()
            self.run_id = self.outbox.id_of(self.run_id)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # The artifacts of a local store are in the folder of the store, wherever the command is started.
        # A tracking server has its own place for them.
        scheme, _, file = self.client.tracking_uri.partition(":///")
        folder = (Path(file).resolve().parent if scheme == "sqlite" else home()) / "mlartifacts"
        root = os.environ.get("PACELINE_ARTIFACTS") or folder.as_uri()
        location = None if scheme.startswith("http") else f"{root}/{quote(name)}"
        # With this tag, the page opens on training runs and not on traces of language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(name, location, tags))

    def _abandon_stale(self) -> None:
        """Closes the runs of processes that have ended."""
        for run in self.client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'"):
            process = run.data.tags.get(PROCESS)
            if process is None or not is_gone(
                process
            ):  # the run is not Paceline's, or its process still runs
                continue
            if run.data.tags.get(KIND) in ("trial", "tuning"):
                self.fail(run.info.run_id, "interrupted: the process that ran it is gone", "KILLED")
            else:
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _create(self, tags: dict[str, str]) -> str:
        tags = tags | {
            PROCESS: this_process(),
            MLFLOW_USER: os.environ.get("USER", ""),
        }
        return self.outbox.create_run(str(self.experiment_id), tags)

    def __enter__(self) -> "BenchmarkRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        status = "FAILED" if error or self.failed else "FINISHED"
        interrupted = isinstance(error, KeyboardInterrupt)
        self.outbox.end(self.run_id, "KILLED" if interrupted else status)
        if error is None:
            self.outbox.settle()

    def describe(self, benchmark: Benchmark, trials: dict[str, Trial], **more: Any) -> None:
        """Stores the benchmark, its environment and data, and the list of its trials."""
        task = benchmark.workload.task.cls
        content = {
            "name": self.name,
            "benchmark": asdict(benchmark),
            "trials": [
                {"id": i, "algorithm": t.label, "workers": t.workers, "seed": t.seed}
                for i, t in trials.items()
            ],
            "titles": {t.label: t.algorithm_class.title for t in trials.values()},
            # An ordinary LightningModule need not name them.
            "loss_name": getattr(task, "loss_name", "loss"),
            "metric_name": getattr(task, "metric_name", "metric"),
            "environment": self.about["environment"],
            "data": self.about["data"],
            **more,
        }
        self.outbox.log_file(self.run_id, BENCHMARK_FILE, _json(content))

    def nested(self, study: str, title: str) -> str:
        """Returns the run of a study and creates it if needed. The study's trials are nested in it."""
        # The name is compared here because not every name is valid in a filter of MLflow.
        for run in search(self.client, self.name, paceline__kind="study"):
            if run.data.tags.get(STUDY) == study:
                return str(run.info.run_id)
        tags = {KIND: "study", STUDY: study, MLFLOW_RUN_NAME: title}
        run_id = self._create(tags | {MLFLOW_PARENT_RUN_ID: self.run_id})
        self.outbox.settle()
        return self.outbox.id_of(run_id)

    def finished_trials(self) -> set[str]:
        """Returns the ids of the finished trials of this benchmark and of others with its name."""
        self.outbox.settle()
        return finished_trials(self.client, self.name)

    def start(
        self, trial: Trial, trial_id: str, kind: str = "trial", under: str | None = None
    ) -> str:
        """Opens the run of a trial and returns its id. It is nested in run `under` or in the parent."""
        data = self.about["data"]
        tags = {
            KIND: kind,
            TRIAL_ID: trial_id,
            MLFLOW_PARENT_RUN_ID: under or self.run_id,
            MLFLOW_RUN_NAME: trial.title,
            MLFLOW_RUN_NOTE: _note(trial, data),
            "workload": trial.workload.name,
            "algorithm": trial.label,
            "workers": str(trial.workers),
            "data": str(data["name"]),
        }
        run_id = self._create(tags)
        parameters = [(k, masked(str(v))[:VALUE_LIMIT]) for k, v in _flat(trial).items()]
        for i in range(0, len(parameters), PARAMETERS_A_REQUEST):
            self.outbox.log(run_id, params=dict(parameters[i : i + PARAMETERS_A_REQUEST]))
        self.outbox.log_dataset(run_id, **_dataset(trial, data))
        return run_id

    def point(self, run_id: str, started: float, point: dict[str, float]) -> None:
        """Adds one evaluation to a trial's curve.

        The timestamp is the trial's start plus its training time. So the time axis of the MLflow page
        shows training seconds, without the time of evaluations.
        """
        stamp = int(1000 * (started + point["train_seconds"]))
        step = int(point["step"])
        metrics = [(k, float(v), stamp, step) for k, v in point.items() if k != "step"]
        self.outbox.log(run_id, metrics)

    def finish(
        self,
        run_id: str,
        figures: dict[str, float],
        record: dict[str, Any],
        predictions: dict[str, NDArray[np.float32]],
    ) -> None:
        """Ends a trial with its figures, its record and its predictions on the first rows."""
        stamp = int(1000 * time.time())
        # The figures that are also in the curve have been logged already, at their own steps.
        new = {name: value for name, value in figures.items() if name not in CURVE}
        self.outbox.log(run_id, [(k, float(v), stamp, 0) for k, v in new.items()])
        self.outbox.log_file(run_id, RECORD_FILE, _json(record))
        np.savez_compressed(file := io.BytesIO(), **predictions)  # type: ignore[arg-type]
        self.outbox.log_file(run_id, PREDICTIONS_FILE, file.getvalue())
        self.outbox.end(run_id, "FINISHED")

    def fail(
        self, run_id: str, reason: str, status: str = "FAILED", details: str | None = None
    ) -> None:
        """Ends a failed trial with the reason. `details`, a traceback or a log, becomes an artifact."""
        self.outbox.log(run_id, tags={FAILURE: masked(reason)[:TAG_LIMIT]})
        if details:
            self.outbox.log_file(run_id, "failure.txt", masked(details).encode())
        self.outbox.end(run_id, status)


def _note(trial: Trial, data: dict[str, Any]) -> str:
    return (
        f"**{trial.algorithm_class.title}** on {trial.workers} workers, batch {trial.batch_size} each,"
        f" seed {trial.seed}; {trial.workload.name} on {data['name']}."
    )


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2, default=str).encode()


def _dataset(trial: Trial, data: dict[str, Any]) -> dict[str, str]:
    """Returns the data as the MLflow page shows them: name, digest, source and facts."""
    plugin = trial.workload.data
    path = plugin.arguments.get("path")
    facts = {k: v for k, v in data.items() if k not in ("name", "fingerprint")}
    return {
        "name": str(data["name"]),
        "digest": data["fingerprint"][:DIGEST_LIMIT],
        "source_type": "local" if path else "code",
        "source": json.dumps({"uri": masked(str(path or plugin.name))}),
        "profile": json.dumps(facts),
    }


def _flat(trial: Trial) -> dict[str, Any]:
    """Returns the configuration of a trial with flat names. Hyper-parameters have no prefix."""
    scale = {
        k: getattr(trial, k) for k in ("workers", "batch_size", "zero_stage", "threads", "seed")
    }
    usual = {field.name: field.default for field in fields(trial)}
    chosen = {k: getattr(trial, k) for k in ("precision", "accumulate", "clip_norm")}
    scale |= {k: value for k, value in chosen.items() if value != usual[k]}
    workload = {"data": trial.workload.data, "task": trial.workload.task}
    classes = {
        f"{part}.{name}": value
        for part, plugin in workload.items()
        for name, value in {**plugin.arguments, **plugin.defaults}.items()
    }
    conditions = {f"partition.{k}": v for k, v in asdict(trial.partition).items()}
    conditions |= {f"fault.{k}": v for k, v in asdict(trial.fault).items()}
    conditions |= {f"budget.{k}": v for k, v in asdict(trial.workload.budget).items()}
    own = {"algorithm": trial.algorithm, **trial.hyper_parameters}
    return {**own, **scale, **conditions, **classes}
