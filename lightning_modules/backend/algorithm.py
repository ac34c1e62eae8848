"""The base of every algorithm: a LightningModule around a task."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from paceline.lightning_modules.backend.evaluated import Evaluated
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import engine_bytes
from paceline.lightning_modules.backend.schedule import Schedule
from paceline.lightning_modules.backend.search import Dimension
from paceline.lightning_modules.backend.state import State, tensors, trained
from paceline.lightning_modules.backend.task import Task
from paceline.lightning_modules.backend.wrapped import BatchHooks


class Algorithm(Evaluated):
    """The base class of all distributed training algorithms.

    A subclass defines three things: how the ranks are divided into replicas (`layout`), what a replica
    minimises in addition to the loss of the task (`added_loss`), and what the replicas exchange
    (`exchange`). Each subclass is one file in `lightning_modules/`. Its hyper-parameters are the
    arguments of its constructor after `task`. They need types and defaults.

    Attributes:
        name: the name of the algorithm in a benchmark's YAML.
        title: the name of the algorithm in the report.
        search_space: the dimension of each hyper-parameter that a sweep tunes. The other
            hyper-parameters keep their values.
        asynchronous: if True, the ranks do not wait for each other between two evaluations.
        zero_stages: the stages of ZeRO that the algorithm supports.
        needs_logits: if True, the algorithm needs a task that tells logits and labels, and not only a
            loss.
        rehearsal: the largest values of hyper-parameters in a rehearsal, which has two steps and should
            have an exchange after each. None replaces any value.
        exchanges: the number of exchanges that this rank has taken part in.
        data_share: the number of examples of this replica, divided by the number of examples of all
            replicas. The code that starts the training sets it.
        lr_factor: the factor by which the learning rates of the task are multiplied. The code that starts
            the training sets it.
        steps: the number of optimizer steps of a rank, as a mean over the ranks. The code that starts the
            training sets it.
        epoch_steps: the number of steps in which a replica with an average share sees each of its
            examples once. The code that starts the training sets it.
        batch_hooks: what is called with every batch before and after it is moved to the device. The code
            that starts the training sets them.
        schedule: the optimizer with its learning rates. It is available after training has started.

    Args:
        task: the model with its loss, its metric and its optimizer.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    search_space: ClassVar[dict[str, Dimension]] = {}
    asynchronous: ClassVar[bool] = False
    rehearsal: ClassVar[dict[str, int | None]] = {}
    needs_logits: ClassVar[bool] = False
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2)  # under ZeRO 3, no rank holds all parameters

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.exchanges = 0
        self.data_share = 1.0
        self.lr_factor = 1.0
        self.steps = 1
        self.epoch_steps = 1.0
        self.batch_hooks: BatchHooks = (None, None)
        self.schedule: Schedule

    @classmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        """Returns how `workers` ranks are divided into replicas, given the hyper-parameters.

        By default, a replica has `ranks_per_replica` ranks. If the algorithm has no hyper-parameter of
        that name, every rank is its own replica.

        Raises:
            ValueError: the algorithm does not run on this number of workers.
        """
        return Layout.of_replicas(workers, hyper_parameters.get("ranks_per_replica", 1))

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Returns the bytes that a worker sends in `steps` training steps, computed from the algorithm.

        The base class counts the bytes that the engine sends inside a replica. A subclass adds the bytes
        of its exchanges.

        Args:
            layout: the layout of the ranks.
            zero_stage: the stage of ZeRO inside a replica.
            steps: the number of optimizer steps of this rank.
        """
        backend = torch.distributed.get_backend()
        parts = self.trainer.accumulate_grad_batches
        return engine_bytes(self.model_bytes, layout.ranks, zero_stage, backend, parts) * steps

    @property
    def parameter_count(self) -> int:
        """The number of trained scalars."""
        return sum(getattr(p, "ds_numel", p.numel()) for p in trained(self.task))

    @property
    def model_bytes(self) -> int:
        """The size of the trained parameters in bytes."""
        return sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in trained(self.task))

    @property
    def state_bytes(self) -> int:
        """The size in bytes of the trained parameters and the floating-point buffers.

        These are what replicas exchange.
        """
        return self.model_bytes + sum(buffer.nbytes for buffer in tensors(self.task, "buffers"))

    def exchange(self, step: int) -> None:
        """Exchanges data with the other replicas. It is called after every optimizer step of this rank.

        Args:
            step: the number of optimizer steps that this rank has taken, at least 1.
        """

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        # The exchange is part of the step and not a hook after it. So no checkpoint can be written
        # between the two.
        stepping = self.backend.stepping
        super().optimizer_step(*arguments, **options)
        if not stepping:
            return
        step = self.trainer.global_step + 1
        self.schedule.advance(step)
        with self.backend.exchanging():
            self.exchange(step)

    def mean_over_replicas(self, state: State) -> State:
        """Returns the mean of `state` over the replicas, weighted by their numbers of examples."""
        return (self.data_share * state).map(self.backend.sum_over_replicas)

    def figures(self) -> dict[str, float]:
        """Returns figures that describe the algorithm on this rank at an evaluation, by name.

        All ranks return the same names. The mean over the ranks is added to the curve.
        """
        return {}

    def measured(self) -> dict[str, Any]:
        """Returns the figures that are counted during training, for a checkpoint."""
        names = ("exchanges", "best_loss", "tested")
        return {name: getattr(self, name) for name in names}

    def load_measured(self, measured: dict[str, Any]) -> None:
        """Continues from the figures of a checkpoint."""
        for name, value in measured.items():
            setattr(self, name, value)

    def record(self) -> dict[str, Any]:
        """Returns what this rank adds to the record of the trial when the trial has ended."""
        return {}

    def tickets(self, rank: int, draw: Callable[[int], int]) -> Callable[[int], int]:
        """Returns the function with which a rank of an asynchronous algorithm draws its batch tickets."""
        return draw

    def scheduled(self, task: Task) -> Schedule:
        """Returns the optimizer of a task with its schedule. The task is a copy of this one or itself."""
        return Schedule.of(task, trained(task), self.steps, self.epoch_steps, self.lr_factor)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.schedule = self.scheduled(self.task)
        return self.schedule.optimizer

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self._hooked(0, batch, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self._hooked(1, batch, dataloader_idx)

    def _hooked(self, place: int, batch: Any, dataloader_idx: int) -> Any:
        hook = self.batch_hooks[place]
        return batch if hook is None else hook(batch, dataloader_idx)

    def training_step(self, batch: Any, index: int) -> dict[str, Tensor]:
        loss, logits = self.training_loss(batch, index)
        return {"loss": loss + self.added_loss(batch, logits), "task_loss": loss.detach()}

    def added_loss(self, batch: Any, logits: Tensor) -> Tensor | float:
        """Returns what a replica minimises in addition to the loss of the task, on the same batch."""
        return 0.0

    def add_to_gradients(self) -> None:
        """Adds to the gradients of a step, in place, those of what does not depend on the batch.

        It is called once per step under ZeRO 0, before gradients are clipped. `backend.gradients` gives
        them. Compared with `added_loss`, this needs no graph. Under ZeRO 1 to 3, it is not called,
        because DeepSpeed consumes the gradients during backward.
        """
