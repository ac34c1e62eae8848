"""The base of every algorithm: a LightningModule around a task."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_modules.backend.layout import Layout
from lightning_modules.backend.task import Task

if TYPE_CHECKING:
    from lightning_modules.backend.strategy import DeepSpeedBackend


class Algorithm(LightningModule, ABC):
    """Says how replicas are laid out, what loss a replica minimises and what an exchange does.

    A subclass is one file in `lightning_modules/`; the arguments of its constructor behind `task`,
    typed and with defaults, are its hyper-parameters.

    Attributes:
        name: what a benchmark's YAML calls it.
        title: what the report calls it.

    Args:
        task: the model with its loss, its metric and its optimizer.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.validation_loss = MeanMetric()
        self.validation_metric = task.metric()

    @classmethod
    @abstractmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        """How `workers` ranks are divided into replicas, given the hyper-parameters.

        Raises:
            ValueError: the algorithm does not run on that many.
        """

    @abstractmethod
    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Bytes that a worker sends in `steps` steps of training, by the algorithm's own arithmetic."""

    @property
    def model_bytes(self) -> int:
        """Bytes of the trained parameters."""
        return sum(
            getattr(p, "ds_numel", p.numel()) * p.element_size()
            for p in self.parameters()
            if p.requires_grad
        )

    @property
    def backend(self) -> "DeepSpeedBackend":
        """The strategy that trains this module, once training has started."""
        return cast("DeepSpeedBackend", self.trainer.strategy)

    def exchange(self, step: int) -> None:
        """What replicas tell each other after optimizer step `step`, counted from 1."""

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        # Part of the step, and not a hook after it, so that no checkpoint falls between the two.
        super().optimizer_step(*arguments, **options)
        with self.backend.exchanging():
            self.exchange(self.trainer.global_step + 1)

    def evaluated_weights(self) -> Tensor | None:
        """The weights [P] to evaluate, the same on every rank; None where each holds them already.

        Every rank calls it at once, off the clock, so it may communicate.
        """
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.task.configure_optimizer(p for p in self.parameters() if p.requires_grad)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.task.loss(self.task(batch), self.task.labels(batch))

    def on_validation_start(self) -> None:
        evaluated = self.evaluated_weights()
        self._trained = None if evaluated is None else self.backend.weights()
        if evaluated is not None:
            self.backend.load_weights(evaluated)

    def validation_step(self, batch: Any, _: int) -> None:
        logits, labels = self.task(batch), self.task.labels(batch)
        self.validation_loss.update(self.task.loss(logits, labels), weight=len(labels))
        self.validation_metric.update(self.task.probabilities(logits), labels.int())

    def on_validation_epoch_end(self) -> None:
        self.log("validation_loss", self.validation_loss.compute())
        self.log("validation_metric", self.validation_metric.compute())
        self.validation_loss.reset()
        self.validation_metric.reset()
        if self._trained is not None:
            self.backend.load_weights(self._trained)
