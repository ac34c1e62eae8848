"""Stores that the real writer fills with curves made by hand."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

from paceline.benchmarks.spec.benchmark import Benchmark, Trial
from paceline.benchmarks.spec.plugin import Plugin
from paceline.benchmarks.spec.settings import Budget, Scale, Target
from paceline.benchmarks.spec.workload import Workload
from paceline.benchmarks.trials.tracking import BenchmarkRun
from paceline.reports.measures.results import Results, load
from paceline.reports.measures.scoring import CURVE, score

MARKUP = "#let $x$ *b* _i_ @ref [c] <d> \\ // `e`"
LONG = "/".join(["directory"] * 12)
SYNTHETIC = {
    "name": "click log",
    "fingerprint": 16 * "0123",
    "synthetic": True,
    "train_rows": 1000,
    "validation_rows": 100,
    "click_rate": 0.25,
    "constant_log_loss": 0.5623,
    "bayes_log_loss": 0.4,
    "skipped_rows": 0,
}
REAL = {
    "name": f"{MARKUP}.tsv",
    "fingerprint": 16 * "4567",
    "synthetic": False,
    "train_rows": 1000,
    "validation_rows": 100,
    "skipped_rows": 1,
    "first_skipped": "line 3: <x>",
}
ENVIRONMENT = {
    "versions": {"python": "3.11"},
    "hardware": {"cpu": "a CPU", "cores": 2, "memory_gib": 8, "gpus": [], "system": "Linux"},
    "revision": {"commit": "0123456789abcdef", "dirty": True},
}
EVERY = [
    "baseline",
    "sync_sgd",
    "downpour",
    "admm",
    "model_averaging",
    "model_averaging rarely",
    "codistillation",
    "independent",
    "label_smoothing",
]
Losses = Callable[[Trial], list[float]]


def benchmark(name: str, workers: dict[str, list[int]], seeds: list[int]) -> Benchmark:
    """A benchmark of algorithms by label, which is an algorithm's name and may go on after a space."""
    workload = Workload(
        name="linear rule",
        data=Plugin("tests.workload:LinearRule", {}),
        task=Plugin("tests.workload:Tower", {"lr": 0.1}),
        target=Target(0.5),
        budget=Budget(),
    )
    algorithms = {
        label: {
            "algorithm": label.partition(" ")[0],
            "workers": n,
            "partition": None,
            "budget": None,
        }
        for label, n in workers.items()
    }
    return Benchmark(name, workload, algorithms, Scale([1], batch_size=10), seeds)


def points(trial: Trial, losses: list[float]) -> list[dict[str, float]]:
    """Two workers take 1.5 times the examples of one in a second, four take 1.2 times as many."""
    curve = []
    for i, loss in enumerate(losses, start=1):
        examples = 1000 * i * trial.workers
        seconds = examples / 1000 / {1: 1.0, 2: 1.5, 4: 1.2}[trial.workers]
        sent = 4000.0 * i * (trial.workers - 1)
        values = [100 * i, examples, seconds, seconds, sent, 100 * i, loss, loss, 0.7]
        curve.append(dict(zip(CURVE, values, strict=True)))
    return curve


def ledger(trial: Trial, curve: list[dict[str, float]]) -> list[dict[str, Any]]:
    """One message a step, as long as the curve says."""
    last = curve[-1]
    row = {"operation": "isend", "group_size": trial.workers, "phase": "exchange"}
    sent = {
        "messages": last["messages_per_worker"],
        "payload_bytes": last["bytes_sent_per_worker"],
    }
    return [row | sent]


def predictions(trial: Trial) -> dict[str, NDArray[np.float32]]:
    """Retrains are 0.02 apart for each seed between them."""
    return {"model": np.full(50, 0.49 + 0.02 * trial.seed, dtype=np.float32)}


def modelled(workers: int, points: int) -> float:
    """Seconds of the store's trials over 10 Gbit/s, up to one of the points of their curves.

    What they compute, and then a hundred messages of 40 bytes for each other worker a point.
    """
    computing = points * workers / {1: 1.0, 2: 1.5, 4: 1.2}[workers]
    messages = 100 * points if workers > 1 else 0
    return computing + messages * (30e-6 + 40 * (workers - 1) / 1.25e9)


def fill(
    client: MlflowClient,
    plan: Benchmark,
    losses: Losses,
    data: dict[str, Any] = SYNTHETIC,
    failures: dict[int | str, str] | None = None,
    skipped: int | None = None,
    own: Callable[[Trial, dict[str, float]], dict[str, float]] = lambda _, point: point,
    ranks: Callable[[Trial], list[dict[str, Any]]] = lambda trial: [{}] * trial.workers,
    **more: Any,
) -> Results:
    """Stores a benchmark.

    Args:
        client: of the store.
        plan: what was to run.
        losses: validation losses of each trial at steps 100, 200 and so on; the target is 0.5.
        data: its description.
        failures: the reason why the trials on a number of workers, or of a title, fail.
        skipped: trials on so many workers are never started.
        own: makes of each point of a curve what its algorithm reports.
        ranks: what each rank of a trial returns of its algorithm.
        more: what else the parent run tells.
    """
    trials = {trial.identity(): trial for trial in plan.trials()}
    about = {"data": data, "environment": ENVIRONMENT}
    run = BenchmarkRun(client, plan.name, plan.identity(), about)
    run.describe(plan, trials, **more)
    for trial_id, trial in trials.items():
        if trial.workers == skipped:
            continue
        run_id = run.start(trial, trial_id)
        curve = [own(trial, point) for point in points(trial, losses(trial))]
        for point in curve:
            run.point(run_id, 0.0, point)
        fails = failures or {}
        if reason := fails.get(trial.title) or fails.get(trial.workers):
            run.fail(run_id, reason)
            continue
        scores = score(pd.DataFrame(curve), plan.workload.target.loss)
        scores["expected_bytes_per_worker"] = scores["bytes_sent_per_worker"]
        weights = f"{trial.workers}{trial.seed}" * 32
        returned = [{"ledger": ledger(trial, curve), **rank} for rank in ranks(trial)]
        result = {"device": "cpu", "replicas": 1, "weights_sha256": weights, "ranks": returned}
        record = {"trial": asdict(trial), "environment": ENVIRONMENT, "result": result}
        run.finish(run_id, scores, record, predictions(trial))
    with run:
        pass
    return load(client, plan.name)


def fill_every(client: MlflowClient, name: str) -> Results:
    """Stores two seeds of nine algorithms; codistillation on four workers misses the target."""
    scales = {label: [2, 4] for label in EVERY} | {"baseline": [1]}
    return fill(client, benchmark(name, scales, [0, 1]), _losses, own=_own, ranks=_ranks)


def _losses(trial: Trial) -> list[float]:
    place = EVERY.index(trial.label)
    if trial.label == "codistillation" and trial.workers == 4:
        return [0.9, 0.7, 0.6, 0.55]
    return [0.9, 0.6 + 0.01 * place, 0.5 - 0.01 * place + 0.01 * trial.seed, 0.44]


def _own(trial: Trial, point: dict[str, float]) -> dict[str, float]:
    place = EVERY.index(trial.label)
    sent = 0 if trial.label == "independent" else point["bytes_sent_per_worker"] * 10 ** (place % 3)
    seconds = point["train_seconds"] * (1 + 0.1 * place)
    changed = {"train_seconds": seconds, "compute_seconds": seconds}
    changed["bytes_sent_per_worker"] = sent
    match trial.algorithm:
        case "admm":
            changed |= {"primal_residual": 2.0 + trial.seed, "dual_residual": 0.02}
        case "model_averaging":
            changed |= {"replica_divergence": 1 / point["step"]}
    return point | changed


def _ranks(trial: Trial) -> list[dict[str, Any]]:
    """Of every four pushes one is fresh, two are one update old and one is as many as workers."""
    if trial.algorithm != "downpour":
        return [{"algorithm": {}}] * trial.workers
    staleness = {"0": 10, "1": 20, str(trial.workers): 10}
    return [{"algorithm": {"staleness": staleness}}] * trial.workers
