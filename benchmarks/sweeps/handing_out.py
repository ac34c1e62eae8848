"""Hands out the trials of a study to the processes that work on it.

A process hands out or takes back trials only while it holds the lock of the storage. So no two processes
draw the same configuration, and together they do not exceed the budget. The trial of a process that has
ended is handed out again: at once if the process ran on this host, and after its heartbeats have stopped
if it ran on another host.
"""

import itertools
import random
import time
import zlib
from collections.abc import Callable
from math import prod
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from paceline.benchmarks.spec.settings import Sampler
from paceline.benchmarks.sweeps.drawing import make_sampler
from paceline.benchmarks.trials.environment import is_gone, this_process

# The attributes of a trial: the process that runs it, the number of its heartbeats, the reason why it
# ended without values, the number of the trial that it duplicates, and whether it may duplicate one.
PROCESS, BEAT, REASON, DUPLICATE_OF, AGAIN = "process", "beat", "reason", "duplicate_of", "again"
DUPLICATES_IN_A_ROW = 20  # after so many, a search space counts as exhausted
LARGEST_GRID = 10_000  # configurations; a larger search space is not enumerated

_retry = RetryHeartbeatStaleTrialCallback(max_retry=5)


class Signs:
    """The heartbeats of running trials, as this process sees them.

    Args:
        silence_s: the seconds without a new heartbeat after which the process of a trial counts as gone.
            They are measured by the clock of this process, so no other clock has to be right.
    """

    def __init__(self, silence_s: float) -> None:
        self.silence_s = silence_s
        self._seen: dict[tuple[str, int], tuple[Any, float]] = {}

    def have_stopped(self, study: Study, trial: FrozenTrial) -> bool:
        key, beat, now = (
            (study.study_name, trial.number),
            trial.user_attrs.get(BEAT),
            time.monotonic(),
        )
        last, since = self._seen.setdefault(key, (beat, now))
        if last != beat:
            self._seen[key] = beat, now
            return False
        return now - since > self.silence_s


def hand_out(
    study: Study,
    budget: int,
    draw: Callable[[optuna.Trial], None],
    sampler: Sampler,
    signs: Signs | None = None,
) -> optuna.Trial | None:
    """Returns the next trial of a study. The caller must hold the lock.

    Args:
        study: the study.
        budget: the number of trials that the study may have. Trials that were taken back and duplicates
            do not count.
        draw: a function that draws the parameters of a trial.
        sampler: the sampler of the parameters. If it draws a duplicate and the search space can be
            enumerated, one of the remaining configurations is queued instead.
        signs: the heartbeats of the trials of other hosts. Without them, no trial is taken back from a
            process on another host.

    Returns:
        The trial with its parameters, or None if the budget is used up or nothing new is left to draw.
    """
    take_back(study, signs)
    for _ in range(DUPLICATES_IN_A_ROW):
        trials = study.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if not waiting and len(counted(trials)) >= budget:
            return None
        # The seed depends only on the study's title and the number of its trials, not on the code or the
        # machine. So the draws are the same whichever process asks.
        title, _, _ = study.study_name.rpartition(" (")
        seed = zlib.crc32(f"{title}/{len(trials)}".encode())
        study.sampler = make_sampler(sampler, budget, seed)
        trial = study.ask()
        trial.set_user_attr(PROCESS, this_process())
        draw(trial)
        twin = _twin(trial, trials)
        if twin is None:
            return trial
        trial.set_user_attr(DUPLICATE_OF, twin.number)
        study.tell(trial, state=TrialState.FAIL)
        if not trial.params:
            return None  # there is no parameter to draw
        if (left := _untried(trial, trials, seed)) is not None:
            study.enqueue_trial(left)
    return None


def queue(study: Study, configurations: list[dict[str, Any]], again: bool = False) -> None:
    """Queues configurations that are tried before any are drawn. The caller must hold the lock.

    Args:
        study: the study. A configuration that it has had is not queued again.
        configurations: the parameters of each configuration, by name.
        again: if true, a configuration is queued again once its earlier trials have ended, whatever their
            outcome.
    """
    open_states = (TrialState.WAITING, TrialState.RUNNING)
    for configuration in configurations:
        same = [
            trial
            for trial in study.get_trials(deepcopy=False)
            if trial.system_attrs.get("fixed_params") == configuration
        ]
        if not same or (again and all(trial.state not in open_states for trial in same)):
            study.enqueue_trial(configuration, user_attrs={AGAIN: again})


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the trials that count towards a budget."""
    again = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    return [t for t in trials if t.number not in again and DUPLICATE_OF not in t.user_attrs]


def _twin(trial: optuna.Trial, others: list[FrozenTrial]) -> FrozenTrial | None:
    """Returns a trial with the same parameters that is running or has ended with a result, or None."""
    if trial.user_attrs.get(AGAIN):
        return None
    states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    same = (t for t in others if t.number != trial.number and t.params == trial.params)
    return next((t for t in same if t.state in states), None)


def _untried(trial: optuna.Trial, others: list[FrozenTrial], seed: int) -> dict[str, Any] | None:
    """Returns a configuration from the search space of `trial` that no trial has had.

    It returns None if there is none left, or if the search space is too large to enumerate.
    """
    values: dict[str, list[Any]] = {}
    for name, dimension in trial.distributions.items():
        match dimension:
            case CategoricalDistribution(choices=choices):
                values[name] = list(choices)
            case IntDistribution(low=low, high=high, step=step) if high - low < LARGEST_GRID:
                values[name] = list(range(low, high + 1, step))
            case _:
                return None
    if prod(map(len, values.values())) > LARGEST_GRID:
        return None
    had = [other.params for other in others if other.state != TrialState.FAIL]
    grid = (
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    )
    left = [parameters for parameters in grid if parameters not in had]
    return random.Random(seed).choice(left) if left else None


def take_back(study: Study, signs: Signs | None = None) -> None:
    """Queues the trials of processes that have ended once more. The caller must hold the lock."""
    for trial in study.get_trials(deepcopy=True, states=(TrialState.RUNNING,)):
        process = trial.user_attrs.get(PROCESS)
        # This process asks for a trial only when it has none, so a running one of its own was lost.
        lost = process is None or process == this_process() or is_gone(process)
        if lost or (signs is not None and signs.have_stopped(study, trial)):
            give_back(study, trial)


def give_back(study: Study, trial: FrozenTrial) -> None:
    """Ends a trial that was interrupted and queues its parameters once more."""
    study.tell(trial.number, state=TrialState.FAIL)
    _retry(study, trial)
