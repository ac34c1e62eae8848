"""How the trials of a study are handed out to the processes that work on it.

Whatever hands out or takes back a trial happens under one lock of the storage, so no two processes draw
the same configuration and none draws more than the budget allows. The trial of a process that has ended
is given out again: at once where that process ran on this host, after its signs of life have stopped
where it ran on another.
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

# Of a trial: the process that runs it, its signs of life so far, why it ended without values, which trial
# it repeats, and whether it may repeat one.
PROCESS, BEAT, REASON, DUPLICATE_OF, AGAIN = "process", "beat", "reason", "duplicate_of", "again"
DUPLICATES_IN_A_ROW = 20  # after which a space counts as exhausted
LARGEST_GRID = 10_000  # of configurations that are counted out

_retry = RetryHeartbeatStaleTrialCallback(max_retry=5)


class Signs:
    """The signs of life of running trials, as this process sees them.

    Args:
        silence_s: for which a trial has to be seen without a new sign before its process counts as gone.
            Only this process's own clock is asked, so no other clock has to be right.
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
    """The next trial of a study; the caller holds the lock.

    Args:
        study: which one.
        budget: how many trials it may have. Those that were taken back and those that repeat another
            are not counted.
        draw: draws the parameters of a trial.
        sampler: what they are drawn with. Where it repeats itself in a space that can be counted out,
            it is given one of the configurations that are left.
        signs: of the trials that processes on other hosts run; they stay with them unless given.

    Returns:
        the trial with its parameters; None where the budget is used up or nothing new is left to draw.
    """
    take_back(study, signs)
    for _ in range(DUPLICATES_IN_A_ROW):
        trials = study.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if not waiting and len(counted(trials)) >= budget:
            return None
        # Seeded by its place in the study, whatever code and machine: the same draws whoever asks.
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
            return None  # nothing is drawn at all
        if (left := _untried(trial, trials, seed)) is not None:
            study.enqueue_trial(left)
    return None


def queue(study: Study, configurations: list[dict[str, Any]], again: bool = False) -> None:
    """Queues configurations to be tried before any are drawn; the caller holds the lock.

    Args:
        study: which one; what it has had is not queued twice.
        configurations: parameters by name.
        again: whether what has ended is, however it did.
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
    """The trials that use up a budget."""
    again = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    return [t for t in trials if t.number not in again and DUPLICATE_OF not in t.user_attrs]


def _twin(trial: optuna.Trial, others: list[FrozenTrial]) -> FrozenTrial | None:
    """The trial of the same parameters that is running or has ended with a result."""
    if trial.user_attrs.get(AGAIN):
        return None
    states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    same = (t for t in others if t.number != trial.number and t.params == trial.params)
    return next((t for t in same if t.state in states), None)


def _untried(trial: optuna.Trial, others: list[FrozenTrial], seed: int) -> dict[str, Any] | None:
    """A configuration of the space of `trial` that no trial has had; None where it has none or no end."""
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
    """Queues the trials of processes that have ended once more; the caller holds the lock."""
    for trial in study.get_trials(deepcopy=True, states=(TrialState.RUNNING,)):
        process = trial.user_attrs.get(PROCESS)
        # This process asks for a trial only when it has none: one of its own was lost on the way.
        lost = process is None or process == this_process() or is_gone(process)
        if lost or (signs is not None and signs.have_stopped(study, trial)):
            give_back(study, trial)


def give_back(study: Study, trial: FrozenTrial) -> None:
    """Ends a trial that was interrupted and queues its parameters once more."""
    study.tell(trial.number, state=TrialState.FAIL)
    _retry(study, trial)
