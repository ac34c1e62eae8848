"""The figures of one trial, computed from its stored curve."""

import math
from typing import Any

import pandas as pd

# The columns of a curve: one row an evaluation. `train_seconds` is the clock's maximum over ranks;
# bytes and messages are the mean over workers, all counted from the start of training.
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


def score(curve: pd.DataFrame, target_loss: float) -> dict[str, float]:
    """The figures of a trial.

    The target counts as reached at the first evaluation whose validation loss is at most
    `target_loss`; nothing is interpolated between evaluations.

    Args:
        curve: the columns of `CURVE`, one row an evaluation.
        target_loss: in the unit of the validation loss.

    Returns:
        `target_reached` (0 or 1); `steps_to_target`, `examples_to_target`, `time_to_target_s` and
        `bytes_to_target` (bytes that a worker sent until then), absent where it was not reached;
        `examples_per_s`, `bytes_sent_per_worker`, `messages_per_worker`, `final_loss`,
        `final_metric`.

    Raises:
        ValueError: the curve is empty.
    """
    if curve.empty:
        raise ValueError("a trial without an evaluation cannot be scored")
    curve = curve.sort_values("step")
    last = curve.iloc[-1]
    figures = {
        "target_reached": 0.0,
        "examples_per_s": last["examples"] / last["train_seconds"],
        "bytes_sent_per_worker": last["bytes_sent_per_worker"],
        "messages_per_worker": last["messages_per_worker"],
        "final_loss": last["validation_loss"],
        "final_metric": last["validation_metric"],
    }
    reached = curve[curve["validation_loss"] <= target_loss]
    if not reached.empty:
        first = reached.iloc[0]
        figures |= {
            "target_reached": 1.0,
            "steps_to_target": first["step"],
            "examples_to_target": first["examples"],
            "time_to_target_s": first["train_seconds"],
            "bytes_to_target": first["bytes_sent_per_worker"],
        }
    return {name: float(value) for name, value in figures.items() if not math.isnan(value)}


def oversubscribed(record: dict[str, Any]) -> bool:
    """Whether a trial's ranks had to share cores, so that its wall-clock speedup says nothing."""
    trial, hardware = record["trial"], record["environment"]["hardware"]
    if record["result"]["device"] == "cuda":
        return bool(trial["workers"] > len(hardware["gpus"]))
    return bool(trial["workers"] * trial["threads"] > hardware["cores"])
