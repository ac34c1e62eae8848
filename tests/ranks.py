"""Trains the tests' workload in real ranks, and compares what they end with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.trials.dealing import stream
from paceline.benchmarks.trials.rank import run_rank
from paceline.lightning_modules.backend.launch import Ranks
from paceline.lightning_modules.backend.state import tensors
from paceline.lightning_modules.backend.strategy import DeepSpeedBackend


@dataclass(frozen=True)
class Plan:
    """What `train` does beside training.

    Args:
        save_to: the folder of a checkpoint to write after step `save_at`; training then ends. At
            step 0 it is written after the first evaluation, and training goes on.
        resume_from: the folder of a checkpoint to go on from.
    """

    save_to: Path | None = None
    save_at: int = 0
    resume_from: Path | None = None


class Observer(Callback):
    """Carries out a plan and keeps the weights that training starts and ends with.

    Attributes:
        buffers: the floating-point buffers that training ends with.
        digests: of all parameters and buffers that are evaluated, one an evaluation.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.initial = self.saved = self.weights = self.evaluated = self.buffers = np.empty(0)
        self.digests: list[str] = []

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self.initial = weights_of(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.plan.save_to and trainer.global_step == self.plan.save_at > 0:
            trainer.save_checkpoint(self.plan.save_to)
            trainer.should_stop = True

    def on_validation_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        assert isinstance(trainer.strategy, DeepSpeedBackend)
        self.digests.append(trainer.strategy.digest().hex())

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        if self.plan.save_to and not self.plan.save_at and not self.saved.size:
            trainer.save_checkpoint(self.plan.save_to)
            self.saved = weights_of(trainer)

    def on_train_end(self, trainer: Trainer, algorithm: Any) -> None:
        self.weights = weights_of(trainer)
        own = [buffer.flatten() for buffer in tensors(algorithm.task, "buffers")]
        self.buffers = torch.cat([torch.empty(0), *own]).numpy()
        with algorithm.as_evaluated():
            self.evaluated = weights_of(trainer)


def weights_of(trainer: Trainer) -> np.ndarray:
    """All weights of this rank's replica in one vector; NumPy has no bfloat16."""
    assert isinstance(trainer.strategy, DeepSpeedBackend)
    with trainer.strategy.full_parameters() as parameters:
        vector = torch.cat([p.detach().flatten() for p in parameters]).cpu()
    return (vector.float() if vector.dtype == torch.bfloat16 else vector).numpy()


def relative_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors, in units of the length of the second."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def run_ranks(world_size: int, target: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `target(*arguments, report)` returned on each rank."""
    with Ranks(world_size, target, *arguments) as ranks:
        results = {rank: value for rank, kind, value in ranks.messages(90) if kind == "result"}
    return [results[rank] for rank in range(world_size)]


def train(trial: Trial, plan: Plan, report: Callable[[str, Any], None]) -> dict[str, Any]:
    """A rank of `trial`: its figures, with its weights before and after, and its curve."""
    points = []

    def listen(kind: str, value: Any) -> None:
        if kind == "point":
            points.append(value)
        report(kind, value)

    observer = Observer(plan)
    figures = run_rank(trial, listen, [observer], plan.resume_from)
    return {
        **figures,
        "initial": observer.initial,
        "saved": observer.saved,
        "weights": observer.weights,
        "evaluated": observer.evaluated,
        "buffers": observer.buffers,
        "digests": observer.digests,
        "points": points,
        "order_seed": stream(trial.seed, "order"),
    }
