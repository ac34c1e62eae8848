"""Computes the figures of one trial from its stored curve."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

# The columns of a curve, which has one row for each evaluation. `train_seconds` is the maximum of the
# clock over ranks. Bytes and messages are means over workers. All count from the start of training.
CURVE = [
    "step",
    "examples",
    "train_seconds",
    "compute_seconds",
    "bytes_sent_per_worker",
    "messages_per_worker",
    "train_loss",
    "validation_loss",
    "validation_metric",
]

# The costs of a trial to the target, each with the column of the curve that counts it. A curve has
# `modelled_s` only if the trial's exchanges are modelled over a link.
TO_TARGET = {
    "steps_to_target": "step",
    "examples_to_target": "examples",
    "time_to_target_s": "train_seconds",
    "modelled_time_to_target_s": "modelled_s",
    "bytes_to_target": "bytes_sent_per_worker",
}
# The same costs at the previous evaluation, or 0 if there was none. The target was reached between the
# two evaluations.
BEFORE_TARGET = {name: name.replace("_to_", "_before_") for name in TO_TARGET}
OTHERS = 0.1  # cores that other programs may take from the ranks before a trial counts as disturbed


def reached(losses: Iterable[float], target_loss: float | None) -> int | None:
    """The index of the first evaluation that reached the target. None if no evaluation did.

    Args:
        losses: validation losses, one for each evaluation.
        target_loss: the greatest loss that counts as reached. None if the workload has no target.
    """
    if target_loss is None:
        return None
    return next((i for i, loss in enumerate(losses) if loss <= target_loss), None)


def score(curve: pd.DataFrame, target_loss: float | None) -> dict[str, float]:
    """Computes the figures of a trial.

    The target counts as reached at the first evaluation whose validation loss is at most
    `target_loss`. Nothing is interpolated. The target was reached at some time after the previous
    evaluation, so the costs at that evaluation are returned too.

    Args:
        curve: one row for each evaluation, with the columns of `CURVE` and optionally `modelled_s`.
        target_loss: the target in the unit of the validation loss. None if the workload has no target.

    Returns:
        A dictionary with the keys `examples_per_s`, `bytes_sent_per_worker`, `messages_per_worker`,
        `best_loss`, `best_step` (the step of the first evaluation with that loss), `final_loss` and
        `final_metric`. If there is a target, it has `target_reached` (0 or 1). If the target was
        reached, it has the keys of `TO_TARGET` and `BEFORE_TARGET`. A figure that is NaN is left out.

    Raises:
        ValueError: the curve is empty.
    """
    if curve.empty:
        raise ValueError("a trial without an evaluation cannot be scored")
    curve = curve.sort_values("step")
    last = curve.iloc[-1]
    figures = {
        "examples_per_s": last["examples"] / last["train_seconds"],
        "bytes_sent_per_worker": last["bytes_sent_per_worker"],
        "messages_per_worker": last["messages_per_worker"],
        "final_loss": last["validation_loss"],
        "final_metric": last.get("validation_metric", math.nan),  # a workload may have no metric
    }
    losses = curve.set_index("step")["validation_loss"].dropna()
    if not losses.empty:
        figures |= {"best_loss": losses.min(), "best_step": losses.idxmin()}
    if target_loss is not None:
        first = reached(curve["validation_loss"], target_loss)
        figures["target_reached"] = float(first is not None)
        if first is not None:
            for name, column in TO_TARGET.items():
                if column in curve:
                    figures[name] = curve[column].iloc[first]
                    figures[BEFORE_TARGET[name]] = curve[column].iloc[first - 1] if first else 0.0
    return {name: float(value) for name, value in figures.items() if not math.isnan(value)}


def disturbed(record: dict[str, Any]) -> bool:
    """Whether other programs took more than `OTHERS` of the cores that the ranks of a trial needed."""
    # What else ran is observed on the first node alone.
    cores = record["environment"]["hardware"]["cores"]
    free = max(0, cores - _workers_on_node(record) * record["trial"]["threads"])
    others = record.get("conditions", {}).get("others_cores", 0.0)  # older records have none
    return bool(others > free + OTHERS)


def oversubscribed(record: dict[str, Any]) -> bool:
    """Whether the ranks of a trial had to share cores or GPUs on a node.

    The wall-clock speedup of such a trial says nothing.
    """
    workers, environment = _workers_on_node(record), record["environment"]
    used = {rank.get("node") for rank in record["result"].get("ranks", [])}
    others = environment.get("others", {})  # records of one node have none
    machines = [environment["hardware"], *(others[name] for name in used & set(others))]
    if record["result"]["device"] == "cuda":
        return bool(workers > min(len(machine["gpus"]) for machine in machines))
    return bool(
        workers * record["trial"]["threads"] > min(machine["cores"] for machine in machines)
    )


def _workers_on_node(record: dict[str, Any]) -> int:
    """Returns the number of workers of a trial on each of its nodes."""
    trial = record["trial"]
    return int(trial["workers"] // trial.get("nodes", 1))  # older records have one node
