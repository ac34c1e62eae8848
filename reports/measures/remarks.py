"""Remarks on a trial. Read them before you compare its figures with those of other trials."""

from typing import Any

import pandas as pd

SILENT = "exchanged nothing"
FEW_STEPS = "fewer steps than evaluations"
USELESS = "worse than a constant prediction"
OVERFITTED = "best loss long before the end"
DISTURBED = "disturbed by other programs"

# The meaning of each remark, as the report prints it.
MEANING = {
    SILENT: "no worker sent anything to another while it trained, because the algorithm is a control or"
    " because its first exchange would have come after the end; this is not distributed training",
    FEW_STEPS: "the budget came to fewer optimizer steps than the evaluations that it asks for, which is"
    " too short for a comparison",
    USELESS: "the lowest validation loss is above that of the best constant prediction",
    OVERFITTED: "the validation loss was lowest in the first three quarters of the training and has risen"
    " since; compare the lowest losses",
    DISTURBED: "other programs used cores that the workers needed, on average more than a tenth of a core"
    " during the trial; its measured times are too long",
}
# The costs of a trial with one of these remarks say nothing about its algorithm.
UNRANKED = (SILENT, FEW_STEPS, USELESS)

LATE = 0.75  # a best loss at or after this fraction of the steps counts as one at the end
RISE = 0.01  # the last loss has risen if it exceeds the best by more than this fraction of the best


def remarks(
    figures: dict[str, float],
    workers: int,
    steps: float,
    evaluations: int,
    data: dict[str, Any],
    disturbed: bool = False,
) -> list[str]:
    """The remarks of `MEANING` that apply to a finished trial.

    Args:
        figures: the result of `paceline.reports.measures.scoring.score`.
        workers: the number of workers of the trial.
        steps: the steps that each worker took.
        evaluations: the number of evaluations in the trial's budget.
        data: the description of the rows. It may hold `constant_log_loss`, the validation loss of the
            best constant prediction.
        disturbed: the result of `paceline.reports.measures.scoring.disturbed`.
    """
    best, last = figures.get("best_loss", float("nan")), figures.get("final_loss", float("nan"))
    found = {
        SILENT: workers > 1 and figures["bytes_sent_per_worker"] == 0,
        FEW_STEPS: steps < evaluations,
        USELESS: best > data.get("constant_log_loss", float("inf")),
        OVERFITTED: figures.get("best_step", steps) < LATE * steps
        and last > best + RISE * abs(best),
        DISTURBED: disturbed,
    }
    return [remark for remark, holds in found.items() if holds]


def remarked(trials: pd.DataFrame) -> list[str]:
    """The remarks that apply to any of these trials, in the order of `MEANING`."""
    given = {remark for text in trials["remarks"].dropna() for remark in text.split("; ")}
    return [remark for remark in MEANING if remark in given]
