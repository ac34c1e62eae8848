"""The loss and the metric of one model on one part of the data."""

import math
import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

NO_SAMPLES = "samples in targets"


class Undefined(RuntimeError):
    """The validation loss or metric is undefined, although the training loss is a number."""


@dataclass(frozen=True)
class Logged:
    """What is known about one batch of an evaluation.

    Attributes:
        loss: the loss of the batch, a scalar.
        weight: the weight of the loss in the mean over all batches.
        metric: the mean of the metric over the batch, or a metric that was updated with the batch, or
            None.
    """

    loss: Tensor
    weight: float
    metric: Tensor | Metric | None


class Evaluation(nn.Module):
    """Collects the loss and the metric over the batches of all ranks that evaluate one model.

    Args:
        what: what is evaluated, for example `validation`. Figures are `validation_loss` and so on.
        metric: the metric, or None if there is none or if it is known only with the first batch.
    """

    def __init__(self, what: str, metric: Metric | None = None) -> None:
        super().__init__()
        self.what = what
        # By default, torchmetrics leaves NaN out of the mean. Its strategy "disable" ignores weights.
        self.loss = MeanMetric(nan_strategy=math.nan)
        self.metrics = nn.ModuleList([] if metric is None else [metric])
        self.group: Any = None

    def shared_by(self, group: Any) -> None:
        """Restricts the ranks that evaluate one model to those of a process group."""
        self.group = group
        for metric in (self.loss, *self.metrics):
            cast(Metric, metric).process_group = group

    def add(self, logged: Logged) -> None:
        """Adds the loss and the metric of a batch."""
        self.loss.update(logged.loss, weight=logged.weight)
        metric = logged.metric
        if metric is None:
            return
        if not self.metrics:
            own = metric if isinstance(metric, Metric) else MeanMetric(nan_strategy=math.nan)
            own.process_group = self.group
            self.metrics.append(own.to(self.loss.device))
        if not isinstance(metric, Metric):
            cast(Metric, self.metrics[0]).update(metric, weight=logged.weight)

    def computed(self) -> dict[str, Tensor]:
        """Returns the figures over all ranks, and starts anew.

        Raises:
            Undefined: the metric of the validation examples is undefined.
        """
        found = {}
        for name, metric in zip(("loss", "metric"), (self.loss, *self.metrics), strict=False):
            found[f"{self.what}_{name}"] = self._value(name, cast(Metric, metric))
            cast(Metric, metric).reset()
        return found

    def _value(self, name: str, metric: Metric) -> Tensor:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value: Tensor = metric.compute()
        # If all labels are of one class, torchmetrics returns zero, and warns on rank 0 only.
        text = next((str(w.message) for w in caught if NO_SAMPLES in str(w.message)), "")
        if text and value == 0 and self.what == "test":
            return torch.full_like(value, math.nan)
        if text and value == 0:
            raise Undefined(f"{self.what} {name} is undefined: {text.partition(',')[0]}")
        return value
