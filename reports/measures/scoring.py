"""The figures of one trial, computed from its stored curve."""

import math
from collections.abc import Iterable
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

# What a trial needs to the target, by the column of the curve that counts it; `modelled_s` joins the
# curve where a trial's exchanges are modelled over a link.
TO_TARGET = {
    "steps_to_target": "step",
    "examples_to_target": "examples",
    "time_to_target_s": "train_seconds",
    "modelled_time_to_target_s": "modelled_s",
    "bytes_to_target": "bytes_sent_per_worker",
}
# The same at the evaluation before, 0 where there was none: the target was reached between the two.
BEFORE_TARGET = {name: name.replace("_to_", "_before_") for name in TO_TARGET}


def reached(losses: Iterable[float], target_loss: float | None) -> int | None:
    """The number, from 0, of the first evaluation that reached the target; None where none did.

    Args:
        losses: validation losses, one an evaluation.
        target_loss: the greatest loss that counts; None where the workload has no target.
    """
    if target_loss is None:
        return None
    return next((i for i, loss in enumerate(losses) if loss <= target_loss), None)


def score(curve: pd.DataFrame, target_loss: float | None) -> dict[str, float]:
    """The figures of a trial.

    The target counts as reached at the first evaluation whose validation loss is at most
    `target_loss`. Nothing is interpolated: the target was reached at some time since the evaluation
    before, so what that evaluation had counted is given too.

    Args:
        curve: the columns of `CURVE`, one row an evaluation, and `modelled_s` where it is known.
        target_loss: in the unit of the validation loss; None where the workload has no target.

    Returns:
        `target_reached` (0 or 1), absent without a target; the figures of `TO_TARGET` and of
        `BEFORE_TARGET`, absent where it was not reached; `examples_per_s`, `bytes_sent_per_worker`,
        `messages_per_worker`, `best_loss`, `best_step` (of the first evaluation with that loss),
        `final_loss`, `final_metric`.

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
        "final_metric": last["validation_metric"],
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


def oversubscribed(record: dict[str, Any]) -> bool:
    """Whether a trial's ranks had to share cores, so that its wall-clock speedup says nothing."""
    trial, hardware = record["trial"], record["environment"]["hardware"]
    if record["result"]["device"] == "cuda":
        return bool(trial["workers"] > len(hardware["gpus"]))
    return bool(trial["workers"] * trial["threads"] > hardware["cores"])
