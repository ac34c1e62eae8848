"""The objectives that a sweep minimises, computed from the trials of one configuration."""

import math
from collections.abc import Sequence
from statistics import fmean

from optuna.trial import FrozenTrial

from paceline.benchmarks.spec.settings import Objective
from paceline.benchmarks.trials.runner import Ended
from paceline.reports.measures.link import Link, modelled_seconds
from paceline.reports.measures.retrains import mean_churn
from paceline.reports.measures.scoring import TO_TARGET, reached

# The objectives whose value follows from the curve alone once the target is reached.
DECIDED_AT_TARGET = ("time_to_target_s", "bytes_to_target")


def about_target(objectives: Sequence[Objective]) -> list[Objective]:
    """Returns the objectives that count only if a trial reaches the target."""
    return [name for name in objectives if name in TO_TARGET]


def value(name: Objective, trials: list[Ended], target: float | None, link: Link) -> float:
    """Returns an objective of a configuration: the mean over its trials, which differ only in their seed.

    A trial that missed the target counts with what it had spent at its end. `excess` tells whether the
    trials reached the target.

    Args:
        name: the name of the objective.
        trials: the trials of the configuration, all finished.
        target: the validation loss to reach, or None if there is no target.
        link: the link for which time is modelled.
    """
    match name:
        case "churn":
            served = {i: trial.predictions["model"] for i, trial in enumerate(trials)}
            return mean_churn(served, served)
        case "final_loss":
            return fmean(trial.figures["final_loss"] for trial in trials)
        case "modelled_time_to_target_s":
            return fmean(_modelled(trial, target, link) for trial in trials)
        case _:
            return fmean(_decisive(trial.curve, target)[TO_TARGET[name]] for trial in trials)


def excess(trials: list[Ended], target: float) -> float:
    """Returns the best loss of the worst trial minus the target. It is at most 0 if all reached it."""
    return max(min(point["validation_loss"] for point in t.curve) for t in trials) - target


def lower_bounds(
    objectives: Sequence[Objective],
    curve: Sequence[dict[str, float]],
    earlier: Sequence[Ended],
    seeds: int,
    target: float | None,
    link: Link,
) -> list[float]:
    """Returns a lower bound of each objective for a configuration whose trials have not all ended.

    Args:
        objectives: the objectives.
        curve: the points of the current trial so far.
        earlier: the finished trials of the configuration.
        seeds: the number of trials that the configuration will have.
        target: the validation loss to reach, or None if there is no target.
        link: the link for which time is modelled.
    """
    point = _decisive(curve, target)
    spent = {name: point[TO_TARGET[name]] for name in DECIDED_AT_TARGET}
    spent["modelled_time_to_target_s"] = point["compute_seconds"]

    def bound(name: Objective) -> float:
        if name not in spent:
            return 0.0 if name == "churn" else -math.inf
        before = sum(value(name, [trial], target, link) for trial in earlier)
        return (before + spent[name]) / seeds

    return [bound(name) for name in objectives]


def is_dominated(bounds: list[float], others: Sequence[FrozenTrial]) -> bool:
    """Returns whether a finished trial that met its constraints is better in every objective.

    Pruning by this rule loses neither the best trial nor one on the Pareto front.
    """
    return any(
        all(value < bound for value, bound in zip(other.values, bounds, strict=True))
        for other in others
        if all(violation <= 0 for violation in other.constraints.values())
    )


def chosen(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Returns the trial to retrain from the completed trials of a study, or None if there are none.

    The candidates are the trials that met their constraints, or else those that came nearest. Among them
    it is the trial with the smallest product of objectives. With one objective this is the best trial;
    with several it is the balanced point of the Pareto front.
    """

    def rank(trial: FrozenTrial) -> tuple[float, float]:
        violation = sum(max(0.0, v) for v in trial.constraints.values())
        if len(trial.values) == 1:  # a loss may be below zero
            return violation, trial.values[0]
        return violation, sum(math.log(max(v, 1e-12)) for v in trial.values)

    return min(trials, key=rank, default=None)


def _decisive(curve: Sequence[dict[str, float]], target: float | None) -> dict[str, float]:
    """Returns the first point of a curve that reached the target, or else the last point."""
    first = reached((point["validation_loss"] for point in curve), target)
    return curve[-1 if first is None else first]


def _modelled(trial: Ended, target: float | None, link: Link) -> float:
    point = _decisive(trial.curve, target)
    return modelled_seconds(
        point["compute_seconds"], point["messages_per_worker"], trial.record, link
    )
