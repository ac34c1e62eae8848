"""What a LightningModule that Paceline runs sees of the training."""

import math
from typing import Any, ClassVar

from pytorch_lightning import Trainer


class TrainerView:
    """What a wrapped LightningModule sees as `self.trainer`.

    An epoch is a pass over the data. To Lightning's own trainer, it is what lies between two evaluations.

    Attributes:
        estimated_stepping_batches: the number of optimizer steps of the whole training.
        num_training_batches: the number of optimizer steps of an epoch.
        trainer: Lightning's own trainer, or None before training.
    """

    # What is asked of Lightning's trainer, with the values before training.
    OF_TRAINER: ClassVar[dict[str, Any]] = {
        "global_step": 0,
        "training": False,
        "validating": False,
        "global_rank": 0,
        "local_rank": 0,
        "world_size": 1,
        "is_global_zero": True,
    }
    PLANNED = (
        "estimated_stepping_batches",
        "max_steps",
        "num_training_batches",
        "max_epochs",
        "epoch_steps",
    )
    logger, loggers = None, ()
    sanity_checking = testing = False

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
    def current_epoch(self) -> int:
        step = self.global_step
        return int(step / self.epoch_steps + 1e-9) if step else 0

    def __getattr__(self, name: str) -> Any:
        if name in self.OF_TRAINER:
            return getattr(self.trainer, name) if self.trainer else self.OF_TRAINER[name]
        planned = name in self.PLANNED
        where = "before configure_optimizers" if planned else "in a module that Paceline runs"
        raise AttributeError(f"self.trainer.{name} is not available {where}")
