"""What a LightningModule that Paceline runs sees of the training."""

import math
from typing import Any

from pytorch_lightning import Trainer


class TrainerView:
    """What a wrapped LightningModule sees as `self.trainer`.

    An epoch is a pass over the data. To Lightning's own trainer, it is what lies between two evaluations.

    Attributes:
        estimated_stepping_batches: the number of optimizer steps of the whole training.
        num_training_batches: the number of optimizer steps of an epoch.
        trainer: Lightning's own trainer, or None before training.
    """

    logger, loggers = None, ()
    PLANNED = (
        "estimated_stepping_batches",
        "max_steps",
        "num_training_batches",
        "max_epochs",
        "epoch_steps",
    )

    def __init__(self) -> None:
        self.trainer: Trainer | None = None

    def plan(self, steps: int, epoch_steps: float) -> None:
        """Sets the numbers of steps, which are known when the optimizer is configured."""
        self.estimated_stepping_batches = self.max_steps = steps
        self.epoch_steps = epoch_steps
        self.num_training_batches = max(1, round(epoch_steps))
        self.max_epochs = max(1, math.ceil(steps / epoch_steps - 1e-9))

    def __deepcopy__(self, _: Any) -> "TrainerView":
        return self  # a copied model is trained by the same trainer

    @property
    def global_step(self) -> int:
        return self.trainer.global_step if self.trainer else 0

    @property
    def current_epoch(self) -> int:
        return int(self.global_step / self.epoch_steps + 1e-9) if self.global_step else 0

    @property
    def training(self) -> bool:
        return bool(self.trainer and self.trainer.training)

    @property
    def validating(self) -> bool:
        return bool(self.trainer and self.trainer.validating)

    @property
    def sanity_checking(self) -> bool:
        return False

    @property
    def testing(self) -> bool:
        return False

    @property
    def global_rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def local_rank(self) -> int:
        return self.trainer.local_rank if self.trainer else 0

    @property
    def world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def is_global_zero(self) -> bool:
        return self.global_rank == 0

    def __getattr__(self, name: str) -> Any:
        where = (
            "before configure_optimizers"
            if name in self.PLANNED
            else "in a module that Paceline runs"
        )
        raise AttributeError(f"self.trainer.{name} is not available {where}")
