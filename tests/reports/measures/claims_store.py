"""Results made by hand, on which claims are judged."""

from typing import Any

import numpy as np
import pandas as pd

from paceline.reports.measures.claims import Claim
from paceline.reports.measures.results import Results

CLAIM = Claim(
    name="half the steps",
    source="a paper",
    statement="new needs half the steps of old",
    benchmark="b",
    measure="steps_to_target",
    of="new@4",
    against="old@2",
    at_most=0.6,
)
TARGET = 0.5
BUDGET = 1000  # steps
# What a step takes of everything else that may be needed to the target.
A_STEP = {
    "examples": 10.0,
    "train_seconds": 0.1,
    "compute_seconds": 0.1,
    "bytes_sent_per_worker": 100.0,
    "messages_per_worker": 0.0,
}
TO_TARGET = {
    "steps_to_target": "step",
    "examples_to_target": "examples",
    "time_to_target_s": "train_seconds",
    "bytes_to_target": "bytes_sent_per_worker",
}
FAILED, KILLED = "FAILED", "KILLED"


def curve_to(steps: float) -> pd.DataFrame:
    """Losses well above the target until `steps`, and well below it from there on."""
    reached = steps < BUDGET
    ends = [steps / 2, steps, BUDGET] if reached else [BUDGET / 2, BUDGET]
    losses = [0.7, 0.45, 0.4] if reached else [0.7, 0.6]
    curve = pd.DataFrame({"step": ends, "validation_loss": losses, "validation_metric": 0.5})
    for column, amount in A_STEP.items():
        curve[column] = curve["step"] * amount
    return curve.assign(train_loss=losses)


def trial(side: str, seed: int, steps: float | str, **figures: Any) -> tuple[dict, pd.DataFrame]:
    """A trial that took so many steps to the target, never got there (NaN), or ended otherwise."""
    algorithm, _, workers = side.partition("@")
    run_id = f"{side} {seed}"
    row = {"algorithm": algorithm, "workers": int(workers), "seed": seed, "run_id": run_id}
    row["status"] = steps if isinstance(steps, str) else "FINISHED"
    curve = curve_to(BUDGET if isinstance(steps, str) or np.isnan(steps) else steps)
    if not isinstance(steps, str):
        row |= dict.fromkeys([*TO_TARGET, "modelled_time_to_target_s"], np.nan)
        row |= {"modelled_s": BUDGET * A_STEP["compute_seconds"]}
        if not np.isnan(steps):
            row |= {name: steps * A_STEP.get(c, 1.0) for name, c in TO_TARGET.items()}
            row["modelled_time_to_target_s"] = steps * A_STEP["compute_seconds"]
    return row | figures, curve.assign(run_id=run_id, seed=seed)


def stored(trials: list[tuple[dict, pd.DataFrame]], name: str = "b", config: Any = None) -> Results:
    """Those trials as the results of a benchmark."""
    config = config or {"workload": {"target": {"loss": TARGET}}}
    columns = ["algorithm", "workers", "seed", "status", "run_id", *TO_TARGET]
    rows = pd.DataFrame([row for row, _ in trials])
    rows = rows.reindex(columns=list(dict.fromkeys([*columns, *rows.columns])))
    curves = [curve for _, curve in trials]
    about = {"name": name, "benchmark": config}
    records = {row["run_id"]: {"result": {"ranks": [{"ledger": []}]}} for row, _ in trials}
    return Results("", about, rows, pd.concat(curves) if curves else curve_to(1), records, {})


def results(new: list[Any], old: list[Any]) -> Results:
    """Steps to the target of two configurations, one trial a seed."""
    sides = (("new@4", new), ("old@2", old))
    return stored(
        [trial(side, seed, steps) for side, own in sides for seed, steps in enumerate(own)]
    )
