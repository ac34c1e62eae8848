"""The optimizer of a task with its learning rates: those of a schedule, multiplied by factors."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from paceline.lightning_modules.backend.task import Configured
from paceline.lightning_modules.backend.wrapped import WrappedModule


class Schedule:
    """An optimizer whose learning rates are those of its task, multiplied by two factors.

    The task may have a scheduler. It is advanced by the number of optimizer steps. The factors are left
    out of what the scheduler sees, because many schedulers compute the next rate from the present one.

    Attributes:
        optimizer: the optimizer.

    Args:
        optimizer: an optimizer that has not taken a step.
        scheduler: a scheduler of it, or None for constant rates.
        steps: the number of optimizer steps of the whole training. After it, the rates stay as they are:
            a rank of an asynchronous algorithm may take more steps than the others.
        interval: the number of optimizer steps after which the scheduler is advanced.
        factor: the factor that stays the same during training.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: LRScheduler | None = None,
        steps: int = 1,
        interval: float = 1.0,
        factor: float = 1.0,
    ) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler
        self.steps, self.interval, self.factor = steps, interval, factor
        self._varying, self._advanced = 1.0, 0
        self._lrs = [group["lr"] for group in optimizer.param_groups]
        self._set()

    @classmethod
    def of(
        cls,
        task: Any,
        parameters: Iterable[nn.Parameter],
        steps: int,
        epoch_steps: float,
        factor: float = 1.0,
    ) -> "Schedule":
        """Returns the optimizer of a task with its schedule.

        Args:
            task: the task.
            parameters: the parameters to train.
            steps: the number of optimizer steps of the whole training.
            epoch_steps: the number of optimizer steps in a pass over the data.
            factor: the factor of the learning rates that stays the same during training.

        Raises:
            TypeError: the task returns something else than an optimizer or a scheduler.
            ValueError: the scheduler depends on a metric.
        """
        if isinstance(task, WrappedModule):
            own = task.configured(steps, epoch_steps)
        else:
            optimizer = task.configure_optimizer(parameters)
            schedule = getattr(task, "configure_schedule", None)
            own = Configured(optimizer, schedule and schedule(optimizer, steps))
        if not isinstance(own.optimizer, Optimizer):
            raise TypeError(f"a {type(own.optimizer).__name__} is no torch.optim.Optimizer")
        if not isinstance(own.scheduler, LRScheduler | None):
            raise TypeError(f"a {type(own.scheduler).__name__} is no LRScheduler")
        if isinstance(own.scheduler, ReduceLROnPlateau):
            wrapped = isinstance(task, WrappedModule)
            raise ValueError(
                f"{'configure_optimizers' if wrapped else 'configure_schedule'} gives ReduceLROnPlateau,"
                " which depends on a metric; give a scheduler that depends on the number of steps"
            )
        interval = own.interval * (epoch_steps if own.by_epoch else 1)
        return cls(own.optimizer, own.scheduler, steps, interval, factor)

    def advance(self, step: int) -> None:
        """Sets the learning rates for the step after `step` optimizer steps in all."""
        due = math.floor(
            min(step, self.steps) / self.interval + 1e-9
        )  # an interval may be a fraction
        if self.scheduler is None or due <= self._advanced:
            return
        for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = lr
        for _ in range(due - self._advanced):
            self.scheduler.step()
        self._advanced = due
        self._lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._set()

    def scale(self, factor: float) -> None:
        """Multiplies the learning rates of the schedule by a factor, in place of the factor before."""
        if factor != self._varying:
            self._varying = factor
            self._set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the optimizer from changing anything in the block. Its groups are empty meanwhile."""
        groups = self.optimizer.param_groups
        held = [group["params"] for group in groups]
        for group in groups:
            group["params"] = []
        try:
            yield
        finally:
            for group, parameters in zip(groups, held, strict=True):
                group["params"] = parameters

    def _set(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = lr * (self.factor * self._varying)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that changes, except what is in the state of the optimizer."""
        own = None if self.scheduler is None else self.scheduler.state_dict()
        return {"scheduler": own, "lrs": self._lrs, "advanced": self._advanced}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self._lrs, self._advanced = state["lrs"], state["advanced"]
        self._set()
