"""The base class of what a workload trains: a model with its loss, its metric and its optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from paceline.lightning_modules.backend.search import Dimension


class Task(nn.Module, ABC):
    """A model with its loss, its metric and its optimizer. It does not depend on the algorithm.

    Attributes:
        loss_name: the name of the loss, with its unit.
        metric_name: the name of the metric.
        search_space: the dimension of each constructor argument that a sweep tunes. It is the same for
            every algorithm.
    """

    loss_name: ClassVar[str]
    metric_name: ClassVar[str]
    search_space: ClassVar[dict[str, Dimension]] = {}

    @abstractmethod
    def forward(self, batch: Any) -> Tensor:
        """The logits of a batch, one row an example."""

    @abstractmethod
    def labels(self, batch: Any) -> Tensor:
        """The labels of a batch, one row an example."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over the rows, a scalar.

        The labels are those of a batch, or soft labels in the form that `probabilities` returns. With
        soft labels, the result is a distillation loss.
        """

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """The predictions that a user would be served."""

    @abstractmethod
    def inverse(self, probabilities: Tensor) -> Tensor:
        """Logits that `probabilities` turns into these: how an ensemble's mean gets a loss."""

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh metric, updated with (probabilities, labels)."""

    @abstractmethod
    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimizer that the workload is trained with unless the algorithm brings its own."""

    def configure_schedule(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """The schedule of the learning rates, advanced after every optimizer step, or None for none.

        `steps` is the number of optimizer steps of the whole training.
        """
        return None


@dataclass(frozen=True)
class Configured:
    """An optimizer with its scheduler.

    Attributes:
        optimizer: the optimizer.
        scheduler: a scheduler of it, or None.
        interval: the number of steps or epochs after which the scheduler is advanced.
        by_epoch: if True, the interval counts passes over the data, else optimizer steps.
    """

    optimizer: Optimizer
    scheduler: LRScheduler | None = None
    interval: int = 1
    by_epoch: bool = False


def loss_weight(task: Any, labels: Tensor) -> float:
    """Returns the weight of some rows in a mean of losses.

    It is the task's `loss_weight(labels)` if it has that method, and the number of rows otherwise.
    """
    own = getattr(task, "loss_weight", None)
    return float(len(labels) if own is None else own(labels))
