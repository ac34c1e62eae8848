"""Starts the ranks of a trial and follows them to their end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from paceline.benchmarks.nodes.cluster import current
from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.trials.checkpoints import Saving
from paceline.benchmarks.trials.display import Display
from paceline.lightning_modules.backend.launch import Ranks

Watch = Callable[[dict[str, float]], None]
Rank = Callable[[Trial, Any], Any]


class Stop(Exception):
    """Ends a trial early. A function that watches the curve of the trial raises it.

    Args:
        reason: why the trial is given up, or None if it already has all its results.
    """

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason


def train(
    trial: Trial, report: Any, folder: Path | None = None, start: Path | None = None
) -> dict[str, Any]:
    """Does the work of one rank of a trial and returns its result.

    Args:
        trial: the trial.
        report: a function that sends a message to the parent.
        folder: the folder for checkpoints. By default, none are saved.
        start: the checkpoint from which the trial goes on.
    """
    # Importing DeepSpeed takes seconds, so only the ranks import it.
    from paceline.benchmarks.trials.rank import run_rank

    return run_rank(trial, report, [Saving(folder)] if folder else [], start)


def ranks_of(trial: Trial, rank: Rank, log: Path) -> Ranks:
    """Starts the ranks of a trial on the nodes that it needs.

    Args:
        trial: the trial.
        rank: the function that each rank runs.
        log: the file for the output of the ranks.

    Raises:
        NodeLost: if there are fewer nodes than the trial needs.
    """
    return Ranks(trial.workers, rank, trial, log=log, nodes=current().usable(trial.nodes))


def follow(
    trial: Trial, log: Path, display: Display, on_point: Watch, rank: Rank = train
) -> dict[int, dict[str, Any]]:
    """Runs the ranks of a trial to their end and returns the result of each rank.

    Args:
        trial: the trial to run.
        log: the file for the output of the ranks.
        display: shows the progress.
        on_point: a function that is called with each new point of the curve. It may raise `Stop`, which
            has no effect at the last point, because the trial has then spent its budget.
        rank: the function that each rank runs.

    Raises:
        RankFailed: if a rank died, raised an error or hung.
        NodeLost: if there are fewer nodes than the trial needs.
        Stop: if `on_point` raised it.
    """
    steps = 0
    results: dict[int, dict[str, Any]] = {}
    with ranks_of(trial, rank, log) as ranks:
        for number, kind, value in ranks.messages():
            if kind == "result":
                results[number] = value
            elif number == 0 and kind == "point":
                try:
                    on_point(value)
                except Stop:
                    if value["step"] < steps:
                        raise
            elif number == 0:
                steps = value.get("steps", steps)
                display.progress(value["step"], steps, value.get("train_loss"))
    return results
