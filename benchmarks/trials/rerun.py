"""Repeats a recorded trial from its record and compares the results."""

import re
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.code import hashes
from paceline.benchmarks.spec.suitable import check_classes, data_fingerprint, prepared
from paceline.benchmarks.trials.display import Display
from paceline.benchmarks.trials.environment import changed, facts
from paceline.benchmarks.trials.following import follow
from paceline.benchmarks.trials.lock import machine
from paceline.reports.measures.results import KIND, RECORD_FILE, RERUN, read_json
from paceline.reports.measures.scoring import score

# The figures that a repetition must reproduce bit for bit. Times are not among them.
FIGURES = ["steps_to_target", "final_loss", "final_metric", "bytes_sent_per_worker"]


class CannotRerun(LookupError):
    """The given run is not a finished trial, or its code is not to be run."""


@dataclass(frozen=True)
class Rerun:
    """A repetition of a trial.

    Attributes:
        run_id: the id of the recorded trial.
        figures: the recorded and the new value of each figure, by name.
        causes: the facts that have changed since the record and may explain a difference. Each has the
            recorded and the new value, by name.
    """

    run_id: str
    figures: dict[str, tuple[Any, Any]]
    causes: dict[str, tuple[Any, Any]]

    @property
    def bitwise(self) -> bool:
        """Whether the weights are equal bit for bit."""
        recorded, now = self.figures["weights_sha256"]
        return bool(recorded == now)

    @property
    def verdict(self) -> str:
        return "bitwise equal" if self.bitwise else "not equal"


def rerun(
    client: MlflowClient, run_id: str, display: Display, trust_recorded_code: bool = False
) -> Rerun:
    """Runs the trial of run `run_id` once more and stores the verdict as a tag of that run.

    Args:
        client: a client of the MLflow store.
        run_id: the id of the run, or its beginning if no other trial's id begins with it.
        display: shows the progress.
        trust_recorded_code: if True, the text of a user's file is run as it was recorded, even if the
            local file holds another one. Whoever can write to the store can put any text there.

    Raises:
        CannotRerun: if there is no such trial, if it did not finish, if several ids begin with `run_id`,
            or if the recorded code is neither here nor trusted.
        ConfigError: if a recorded class is not one that a trial may have.
        RankFailed: if the repetition failed.
    """
    run_id = _whole_id(client, run_id)
    record = _record(client, run_id)
    trial = Trial.from_record(record["trial"])
    if not trust_recorded_code:
        for plugin in (trial.workload.data, trial.workload.task, trial.own):
            if plugin is not None and plugin.source is not None:
                _check_code(Path(plugin.place), plugin.source)
    check_classes(trial.workload.data, trial.workload.task)
    data = prepared([trial])
    with machine(display), TemporaryDirectory() as folder:
        display.trial(trial.title, 0, 1)
        curve: list[dict[str, float]] = []
        results = follow(trial, Path(folder) / "ranks.log", display, curve.append)
    recorded = client.get_run(run_id).data.metrics
    now = score(pd.DataFrame(curve), trial.workload.target.loss)
    figures = {name: (recorded.get(name), now.get(name)) for name in FIGURES}
    figures["weights_sha256"] = (
        record["result"]["weights_sha256"],
        results[0]["weights_sha256"],
    )
    present = facts(data_fingerprint(data), hashes(trial.files))
    outcome = Rerun(run_id, figures, _causes(trial, record["facts"], present))
    client.set_tag(run_id, RERUN, outcome.verdict)
    return outcome


def _check_code(file: Path, recorded: str) -> None:
    """Raises `CannotRerun` if a local file does not hold the recorded text."""
    try:
        here = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        here = ""
    if here == recorded:
        return
    lines = unified_diff(
        here.splitlines(), recorded.splitlines(), str(file), "recorded", lineterm=""
    )
    difference = "\n".join(lines)
    raise CannotRerun(
        f"the record holds other code than {file}:\n{difference}\nrepeat the trial with"
        " --trust-recorded-code to run the recorded code"
    )


def _whole_id(client: MlflowClient, beginning: str) -> str:
    """Returns the id of the only trial whose id begins with `beginning`."""
    if not re.fullmatch("[0-9a-f]+", beginning):
        raise CannotRerun(f"{beginning!r} is no run's id; `results` shows them")
    experiments = [e.experiment_id for e in client.search_experiments()]
    chosen = f"attributes.run_id LIKE '{beginning}%' AND tags.`{KIND}` = 'trial'"
    found = [run.info.run_id for run in client.search_runs(experiments, chosen, max_results=9)]
    if len(found) > 1:
        shown = ", ".join(sorted(found))
        raise CannotRerun(f"{len(found)} trials have ids that begin with {beginning}: {shown}")
    return str(found[0]) if found else beginning


def _record(client: MlflowClient, run_id: str) -> dict[str, Any]:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise CannotRerun(f"no run {run_id!r} in this store; `results` shows the ids") from error
    if run.data.tags.get(KIND) != "trial" or run.info.status != "FINISHED":
        raise CannotRerun(f"run {run_id!r} is no trial that has finished")
    return read_json(client, run_id, RECORD_FILE)


def _causes(
    trial: Trial, recorded: dict[str, Any], present: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    causes = changed(recorded, present)
    if trial.algorithm_class.asynchronous and not trial.hyper_parameters.get("replay"):
        causes["asynchronous"] = ("its order of pushes", "another order; see `replay`")
    return causes
