"""Rehearses the configurations of a command before its first trial.

A rehearsal does everything that a trial does, in real ranks and through the same function, but briefly:
two steps, with an exchange and an evaluation on a few rows after each, a checkpoint and predictions. So a
mistake that would fail every trial is told before any trial runs.

The configurations that passed are remembered in a file under `PACELINE_HOME`, one identity a line. Only
whole lines are appended, so several processes can share the file.
"""

import inspect
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from paceline.benchmarks.nodes.cluster import current
from paceline.benchmarks.nodes.remote import NodeLost
from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.settings import Budget, Fault, Target
from paceline.benchmarks.trials.checkpoints import Saving, all_checkpoints
from paceline.benchmarks.trials.display import Display
from paceline.benchmarks.trials.following import ranks_of
from paceline.home import home
from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.launch import RankFailed
from paceline.lightning_modules.backend.wrapped import bare

STEPS = 2
ROWS = 64  # validation examples of each rank
RESULTS = ("Diverged", "Undefined")  # errors that a trial records as its result


class RehearsalFailed(RuntimeError):
    """Configurations failed in the rehearsal, so no trial was run."""

    exit_status = 1


def rehearsed(
    trials: Sequence[Trial],
    facts: Mapping[str, Any],
    display: Display,
    keep_going: bool = False,
    finished: Callable[[], Collection[str]] = tuple,
) -> list[Trial]:
    """Rehearses the configurations of trials and returns the trials that can run.

    Args:
        trials: the planned trials.
        facts: the facts in their identities.
        display: shows a line for each configuration.
        keep_going: if True, the configurations that fail are left out.
        finished: a function that returns the identities of the trials that need no rehearsal. It is
            called only if a configuration has not passed before.

    Raises:
        RehearsalFailed: if a configuration fails and `keep_going` is False, or if all fail.
    """
    identities = [shortened(trial).identity(**facts) for trial in trials]
    known = passed()
    ended = set() if known.issuperset(identities) else finished()
    planned: dict[str, Trial] = {}
    for identity, trial in zip(identities, trials, strict=True):
        if identity not in known and trial.identity(**facts) not in ended:
            planned.setdefault(identity, trial)
    failed = set()
    for number, (identity, trial) in enumerate(planned.items(), start=1):
        began = time.monotonic()
        try:
            _rehearse(trial)
        except RankFailed as error:
            if error.error == NodeLost.__name__:
                raise  # no fault of the configuration
            outcome = f"{error}{_place(trial, error.details)}"
            if error.error not in RESULTS:
                failed.add(identity)
        else:
            _remember(identity)
            outcome = f"passed in {time.monotonic() - began:.1f} s"
        left_out = "left out: " if identity in failed and keep_going else ""
        place = f"rehearsal {number}/{len(planned)}"
        display.note(f"{left_out}{place}: {trial.configuration}: {outcome}")
    kept = [t for i, t in zip(identities, trials, strict=True) if i not in failed]
    if failed and not (keep_going and kept):
        advice = "; --keep-going leaves them out and runs the others" if kept else ""
        raise RehearsalFailed(
            f"{len(failed)} of {len(planned)} configurations failed in the rehearsal, so no trial has"
            f" run; the reasons are above{advice}"
        )
    return kept


def shortened(trial: Trial) -> Trial:
    """Returns the trial that stands for `trial` in a rehearsal.

    Two trials with the same one are rehearsed once. It therefore has no seed, fault, target or name.
    """
    own = dict(trial.hyper_parameters)
    for name, most in trial.algorithm_class.rehearsal.items():
        given = own.get(name, most)
        own[name] = most if given is None or most is None else min(given, most)
    examples = STEPS * trial.batch_size * trial.workers
    budget = Budget(examples, epochs=examples, evaluations=STEPS)
    return replace(
        trial,
        benchmark="",
        workload=replace(trial.workload, name="", target=Target(), budget=budget),
        label=trial.algorithm,
        hyper_parameters=own,
        seed=0,
        fault=Fault(),
    )


def _rehearse(trial: Trial) -> None:
    """Rehearses a configuration.

    Raises:
        RankFailed: if a rank failed.
    """
    with TemporaryDirectory(dir=all_checkpoints()) as folder:  # there is room for a checkpoint
        log = Path(folder) / "ranks.log"
        rank = partial(perform, folder=Path(folder))
        try:
            with ranks_of(shortened(trial), rank, log) as ranks:
                for _ in ranks.messages():
                    pass
        finally:
            current().everywhere(shutil.rmtree, folder, True)


def _place(trial: Trial, details: str) -> str:
    """Returns the innermost line of a user's own files in a traceback, in brackets."""
    plugins = (trial.workload.data, trial.workload.task, trial.own)
    files = {inspect.getfile(plugin.cls) for plugin in plugins if plugin is not None}
    frames = re.findall(r'File "(.+)", line (\d+)', details)
    lines = [f" ({Path(file).name}, line {line})" for file, line in frames if file in files]
    return lines[-1] if lines else ""


def perform(trial: Trial, report: Any, folder: Path) -> None:
    """Does the work of one rank of a rehearsal."""
    # Importing DeepSpeed takes seconds, so only the ranks import it.
    from paceline.benchmarks.trials.rank import run_rank

    callbacks: list[Callback] = [_LongSchedule(), Saving(folder, interval=0)]
    if trial.zero_stage:
        callbacks.append(_Gradients())
    run_rank(trial, report, callbacks, rows=ROWS)


class _LongSchedule(Callback):
    """Gives schedules a usual length, because some cannot be as short as a rehearsal."""

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        algorithm = cast(Algorithm, module)
        algorithm.steps, algorithm.epoch_steps = 1000, 100.0


class _Gradients(Callback):
    """Looks for parameters without a gradient, which ZeRO 1 to 3 do not support."""

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, index: int
    ) -> None:
        algorithm = cast(Algorithm, module)
        named = {n: p for n, p in bare(algorithm.task).named_parameters() if p.requires_grad}
        # Not by `backward`, which would make DeepSpeed reduce gradients that other ranks do not have.
        loss, _ = algorithm.training_loss(batch, index)
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        lacking = [name for name, g in zip(named, gradients, strict=True) if g is None]
        of_all: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(of_all, lacking)
        if missing := dict.fromkeys(name for names in of_all for name in names):
            raise ValueError(
                f"parameters without a gradient at a step: ZeRO 0 only: {', '.join(missing)}; set"
                " scale.zero_stage to 0"
            )


def _memory() -> Path:
    return home() / ".cache" / "rehearsed"


def passed() -> set[str]:
    """Returns the identities of the configurations that have passed a rehearsal."""
    try:
        return set(_memory().read_text(errors="replace").split())
    except OSError:
        return set()


def _remember(identity: str) -> None:
    try:
        _memory().parent.mkdir(parents=True, exist_ok=True)
        with _memory().open("a") as file:  # written at once, so that no process splits a line
            file.write(f"{identity}\n")
    except OSError:
        pass  # without a place to remember it, it is rehearsed again
