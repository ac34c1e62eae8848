"""Label smoothing: synchronous SGD with a second loss term that pulls towards a constant prediction.

    L = phi(y, f(x)) + alpha psi(q, f(x))

phi is the loss of the task. psi is the same loss with the distribution q as its target. q is uniform, or
the marginal distribution of the labels, which each rank estimates by the running mean of its labels.

This is a control experiment for codistillation. It shows whether codistillation works because of its
teachers or only because their targets are soft. With alpha = 0, it is the same as synchronous SGD.

Paper: Anil et al. (2018), "Large Scale Distributed Neural Network Training Through Online
Distillation".
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from paceline.lightning_modules.backend.search import Real
from paceline.lightning_modules.backend.task import Task
from paceline.lightning_modules.sync_sgd import SyncSGD


class LabelSmoothing(SyncSGD):
    """Synchronous SGD with smoothed labels.

    Args:
        task: the task to train.
        alpha: the weight of psi.
        towards: the distribution q.

    Raises:
        ValueError: `alpha` is negative.
    """

    name = "label_smoothing"
    title = "label smoothing"
    search_space = {"alpha": Real(0.01, 1.0, log=True)}
    needs_logits = True

    def __init__(
        self, task: Task, alpha: float = 0.1, towards: Literal["uniform", "marginal"] = "uniform"
    ) -> None:
        super().__init__(task)
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, not {alpha}")
        self.alpha, self.towards = alpha, towards
        self.label_sum: Tensor | float = 0.0
        self.labels_seen = 0

    def added_loss(self, batch: Any, logits: Tensor) -> Tensor:
        constant = self.task.probabilities(torch.zeros_like(logits))
        if self.towards == "marginal":
            constant = self._marginal(self.task.labels(batch), logits).expand_as(constant)
        return self.alpha * self.task.loss(logits, constant)

    def _marginal(self, labels: Tensor, logits: Tensor) -> Tensor:
        soft = labels if labels.is_floating_point() else one_hot(labels.long(), logits.shape[-1])
        self.label_sum = self.label_sum + soft.float().sum(dim=0)
        self.labels_seen += len(soft)
        return self.label_sum / self.labels_seen

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["label_smoothing"] = (self.label_sum, self.labels_seen)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.label_sum, self.labels_seen = checkpoint["label_smoothing"]
