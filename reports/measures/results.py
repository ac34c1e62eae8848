"""Reads benchmarks, trials and curves back from MLflow."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.entities
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from paceline.reports.measures.link import DEFAULT, PRESETS, Link, modelled_seconds
from paceline.reports.measures.remarks import remarks
from paceline.reports.measures.scoring import BEFORE_TARGET, CURVE, disturbed, oversubscribed, score

# The tags of Paceline's runs in MLflow. `KIND` is "benchmark" on a parent run and "trial" on a child run.
# In a sweep, a run of kind "study" lies between them, and a run of kind "tuning" is a trial that is not
# scored.
KIND, PROCESS, BENCHMARK_ID, STUDY, TRIAL_ID, FAILURE, RERUN = (
    "paceline.kind",
    "paceline.process",
    "paceline.benchmark_id",
    "paceline.study",
    "paceline.trial_id",
    "paceline.failure",
    "paceline.rerun",
)
BENCHMARK_FILE, RECORD_FILE = "benchmark.json", "record.json"
PREDICTIONS_FILE = "predictions.npz"

COLUMNS = [
    "benchmark",
    "workload",
    "data",
    "algorithm",
    "workers",
    "replicas",
    "seed",
    "status",
    "target_reached",
    "steps_to_target",
    "examples_to_target",
    "time_to_target_s",
    "modelled_time_to_target_s",
    "bytes_to_target",
    *BEFORE_TARGET.values(),
    "examples_per_s",
    "bytes_sent_per_worker",
    "expected_bytes_per_worker",
    "messages_per_worker",
    "best_loss",
    "best_step",
    "final_loss",
    "final_metric",
    "test_loss",
    "test_metric",
    "remarks",
    "weights_sha256",
    "run_id",
]

ENDED = ("FINISHED", "FAILED", "KILLED")  # the statuses of a trial that will not go on

# More columns that the report needs. `modelled_s` is the modelled training time of the whole trial.
# `rerun` is the result of a repetition of the trial.
MORE = ["failure", "oversubscribed", "modelled_examples_per_s", "modelled_s", "rerun"]

CURVE_OF = ["run_id", "algorithm", "workers", "seed"]


class NoResults(LookupError):
    """MLflow holds no run of the requested benchmark."""


@dataclass(frozen=True)
class Results:
    """One benchmark as MLflow holds it.

    Attributes:
        run_id: the id of the parent run.
        benchmark: the `benchmark.json` of the parent run: `name`, `benchmark` (the resolved
            configuration), `data` (description of the rows), `environment` (versions, hardware,
            revision), `loss_name`, `metric_name`, `titles` (one for each algorithm label), `trials`
            (ids in the planned order).
        trials: one row for each planned trial, in the planned order. The columns are `COLUMNS`, then
            `MORE`, then the hyper-parameters as `param.*`. A trial that never started has the status
            MISSING. If the workload has a target, a trial that failed or was killed counts as having
            missed it, even if it had reached it before. `remarks` are those of
            `paceline.reports.measures.remarks`, joined by semicolons.
        curves: one row for each evaluation of a trial. The columns are `run_id`, `algorithm`,
            `workers`, `seed`, then `CURVE`, then the figures that an algorithm reports itself, and
            `modelled_s`. Figures of other algorithms are missing.
        records: the `record.json` of each finished trial, by `run_id`.
        predictions: the predictions of each finished trial on the first validation rows, by `run_id`
            and then by the source of the predictions (`model` or `ensemble`).
        link: the preset of `paceline.reports.measures.link` over which times are modelled.
    """

    run_id: str
    benchmark: dict[str, Any]
    trials: pd.DataFrame
    curves: pd.DataFrame
    records: dict[str, dict[str, Any]]
    predictions: dict[str, dict[str, NDArray[np.float32]]]
    link: str = DEFAULT


def read_json(client: MlflowClient, run_id: str, name: str) -> dict[str, Any]:
    """Reads a JSON artifact of a run."""
    with TemporaryDirectory() as folder:
        content: dict[str, Any] = json.loads(
            Path(client.download_artifacts(run_id, name, folder)).read_text()
        )
    return content


def search(client: MlflowClient, experiment: str, **tags: str) -> list[mlflow.entities.Run]:
    """The runs of an experiment with all the given tags, newest first.

    A dot in the name of a tag is written `__`.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    conditions = [f"tags.`{k.replace('__', '.')}` = '{v}'" for k, v in tags.items()]
    runs: list[mlflow.entities.Run] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs(
            [found.experiment_id],
            " and ".join(conditions),
            max_results=1000,
            order_by=["attributes.start_time DESC"],
            page_token=token or None,
        )
        runs += page
        token = page.token or None
    return runs


def trial_runs(client: MlflowClient, experiment: str) -> dict[str, mlflow.entities.Run]:
    """The run that counts for each trial id.

    It is the newest finished run. If no run finished, it is the newest run.
    """
    chosen: dict[str, mlflow.entities.Run] = {}
    for run in search(client, experiment, paceline__kind="trial"):
        held = chosen.setdefault(run.data.tags[TRIAL_ID], run)
        if held.info.status != "FINISHED" and run.info.status == "FINISHED":
            chosen[run.data.tags[TRIAL_ID]] = run
    return chosen


def load(
    client: MlflowClient, name: str, link: str = DEFAULT, with_predictions: bool = True
) -> Results:
    """Loads the newest run of benchmark `name`, with times modelled over `link`.

    Loading without predictions takes a third less time, but churn is then not available.

    Raises:
        NoResults: the benchmark was never run.
    """
    found = parents(client, name)
    if not found:
        raise NoResults(f"no run of benchmark {name!r} in this store; `run {name}` makes one")
    return load_run(client, found[0], link, with_predictions)


def parents(client: MlflowClient, name: str) -> list[mlflow.entities.Run]:
    """The runs of a benchmark, one for each configuration that it has had, the latest first."""
    found = search(client, name, paceline__kind="benchmark")
    # A benchmark that is continued later keeps its run, so the order is by the end of the run.
    return sorted(found, key=lambda run: run.info.end_time or run.info.start_time, reverse=True)


def load_run(
    client: MlflowClient, parent: mlflow.entities.Run, link: str, with_predictions: bool
) -> Results:
    """Loads one of the `parents`. `load` loads the first of them."""
    benchmark = read_json(client, parent.info.run_id, BENCHMARK_FILE)
    runs = trial_runs(client, benchmark["name"])
    rows, curves, records = [], [], {}
    for planned in benchmark["trials"]:
        run = runs.get(planned["id"])
        if run is not None and run.info.status == "FINISHED":
            records[run.info.run_id] = read_json(client, run.info.run_id, RECORD_FILE)
        rows.append(_row(benchmark, planned, run, records))
        if run is not None:
            curve = read_curve(client, run)
            if record := records.get(run.info.run_id):
                curve["modelled_s"] = _modelled(curve, record, PRESETS[link])
                rows[-1] |= _scored(benchmark, rows[-1], curve, record)
            facts = {key: rows[-1][key] for key in CURVE_OF}
            curves.append(curve.assign(**facts)[[*facts, *curve.columns]])
    trials = pd.DataFrame(rows)
    parameters = sorted(str(name) for name in trials if str(name).startswith("param."))
    return Results(
        parent.info.run_id,
        benchmark,
        trials.reindex(columns=[*COLUMNS, *MORE, *parameters]),
        pd.concat(curves, ignore_index=True)
        if curves
        else pd.DataFrame(columns=[*CURVE_OF, *CURVE]),
        records,
        {i: _read_predictions(client, i) for i in records} if with_predictions else {},
        link,
    )


def _read_predictions(client: MlflowClient, run_id: str) -> dict[str, NDArray[np.float32]]:
    with TemporaryDirectory() as folder:
        try:
            file = client.download_artifacts(run_id, PREDICTIONS_FILE, folder)
        except (MlflowException, OSError):
            return {}  # an old trial, stored before predictions were kept
        with np.load(file, allow_pickle=False) as predictions:
            return dict(predictions)


def _modelled(curve: pd.DataFrame, record: dict[str, Any], link: Link) -> list[float]:
    """Modelled seconds of training over `link`, up to each point of a curve."""
    counted = curve[["compute_seconds", "messages_per_worker"]].to_numpy(dtype=float)
    return [modelled_seconds(seconds, messages, record, link) for seconds, messages in counted]


def _scored(
    benchmark: dict[str, Any], row: dict[str, Any], curve: pd.DataFrame, record: dict[str, Any]
) -> dict[str, Any]:
    """The figures and remarks of a finished trial."""
    workload = benchmark["benchmark"]["workload"]
    figures = score(curve, workload["target"]["loss"])
    last = curve.iloc[-1]
    own = benchmark["benchmark"]["algorithms"][row["algorithm"]].get("budget")
    evaluations = (own or workload["budget"])["evaluations"]
    told = remarks(
        figures, row["workers"], last["step"], evaluations, benchmark["data"], disturbed(record)
    )
    scored: dict[str, Any] = dict(figures)
    if "target_reached" in figures:
        scored["target_reached"] = bool(figures["target_reached"])
    return scored | {
        "modelled_s": last["modelled_s"],
        "modelled_examples_per_s": last["examples"] / last["modelled_s"],
        "remarks": "; ".join(told) or None,
    }


def read_curve(client: MlflowClient, run: mlflow.entities.Run) -> pd.DataFrame:
    """The curve of a trial: the columns of `CURVE`, then all other metrics of its evaluations."""
    columns: dict[str, pd.Series[float]] = {}
    own = sorted(set(run.data.metrics) - {*CURVE, *COLUMNS, *MORE})
    for name in (*CURVE[1:], *own):
        if name in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, name)
            columns[name] = pd.Series({m.step: m.value for m in history}, dtype=float)
    curve = pd.DataFrame(columns).rename_axis("step").reset_index()
    curve = curve.reindex(columns=[*CURVE, *own]).dropna(subset="train_seconds")
    return curve.sort_values("step", ignore_index=True)


def _row(
    benchmark: dict[str, Any],
    planned: dict[str, Any],
    run: mlflow.entities.Run | None,
    records: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "benchmark": benchmark["name"],
        "workload": benchmark["benchmark"]["workload"]["name"],
        "data": benchmark["data"]["name"],
        **{key: planned[key] for key in ("algorithm", "workers", "seed")},
        "status": "MISSING",
    }
    if run is None:
        return row
    row |= {name: run.data.metrics[name] for name in COLUMNS if name in run.data.metrics}
    row |= {"status": run.info.status, "run_id": run.info.run_id}
    row |= {"failure": run.data.tags.get(FAILURE), "rerun": run.data.tags.get(RERUN)}
    row |= {f"param.{name}": value for name, value in run.data.params.items()}
    if record := records.get(run.info.run_id):
        row |= {
            "replicas": record["result"]["replicas"],
            "weights_sha256": record["result"]["weights_sha256"],
            "oversubscribed": oversubscribed(record),
        }
    elif (
        run.info.status in ENDED
        and benchmark["benchmark"]["workload"]["target"]["loss"] is not None
    ):
        row["target_reached"] = False
    return row
