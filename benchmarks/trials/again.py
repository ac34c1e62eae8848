"""Tells why trials run again that have finished before."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from mlflow.tracking import MlflowClient

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.trials.environment import changed
from paceline.reports.measures.results import RECORD_FILE, read_json, search

SHOWN = 5  # changes that are named


def why_again(
    trials: Iterable[Trial], facts: Mapping[str, Any], client: MlflowClient, name: str
) -> Iterator[str]:
    """Yields a line for each reason for which trials run again, with the labels of their algorithms.

    It looks at one trial of each algorithm.

    Args:
        trials: the trials that are about to run.
        facts: the facts in their identities.
        client: a client of the MLflow store.
        name: the name of the benchmark.
    """
    first = {trial.label: trial for trial in reversed(list(trials))}
    finished: dict[str, str] = {}
    for run in search(client, name, paceline__kind="trial"):  # the newest first
        if run.info.status == "FINISHED":
            finished.setdefault(run.info.run_name, run.info.run_id)
    reasons: dict[str, list[str]] = {}
    for label, trial in sorted(first.items()):
        if trial.title in finished:
            record = read_json(client, finished[trial.title], RECORD_FILE)
            settings = json.loads(json.dumps(asdict(trial)))  # as they are recorded
            then = {**record["trial"], **record.get("facts", {})}
            found = list(changed(then, {**settings, **trial.own_facts(facts)}))
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            reasons.setdefault(", ".join(found[:SHOWN]) + more, []).append(label)
    for reason, labels in reasons.items():
        yield f"{', '.join(labels)} run again; changed since the last run: {reason}"
