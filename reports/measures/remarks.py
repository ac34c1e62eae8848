"""What has to be known of a trial before its figures are compared with those of others."""

from typing import Any

import pandas as pd

SILENT = "exchanged nothing"
FEW_STEPS = "fewer steps than evaluations"
USELESS = "worse than a constant prediction"
OVERFITTED = "best loss long before the end"

# What each remark means, in the words of the report.
MEANING = {
    SILENT: "no worker sent anything to another while it trained, because the algorithm is a control or"
    " because its first exchange would have come after the end; this is not distributed training",
    FEW_STEPS: "the budget came to fewer optimizer steps than the evaluations that it asks for, which is"
    " too short for a comparison",
    USELESS: "the lowest validation loss is above that of the best constant prediction",
    OVERFITTED: "the validation loss was lowest in the first three quarters of the training and has risen"
    " since; compare the lowest losses",
}
UNRANKED = (
    SILENT,
    FEW_STEPS,
    USELESS,
)  # with these, a trial's costs say nothing about its algorithm

LATE = 0.75  # from this part of the steps on, the best loss counts as at the end
RISE = 0.01  # the last loss is higher by at least this part of the best


def remarks(
    figures: dict[str, float], workers: int, steps: float, evaluations: int, data: dict[str, Any]
) -> list[str]:
    """The remarks on a trial that finished, of those in `MEANING`.

    Args:
        figures: as `paceline.reports.measures.scoring.score` gives them.
        workers: of the trial.
        steps: that each worker took.
        evaluations: that its budget asks for.
        data: the description of its rows; `constant_log_loss`, where it is known, is the validation
            loss of the best constant prediction.
    """
    best, last = figures.get("best_loss", float("nan")), figures.get("final_loss", float("nan"))
    found = {
        SILENT: workers > 1 and figures["bytes_sent_per_worker"] == 0,
        FEW_STEPS: steps < evaluations,
        USELESS: best > data.get("constant_log_loss", float("inf")),
        OVERFITTED: figures.get("best_step", steps) < LATE * steps
        and last > best + RISE * abs(best),
    }
    return [remark for remark, holds in found.items() if holds]


def remarked(trials: pd.DataFrame) -> list[str]:
    """The remarks on any of these trials, in the order of `MEANING`."""
    given = {remark for text in trials["remarks"].dropna() for remark in text.split("; ")}
    return [remark for remark in MEANING if remark in given]
