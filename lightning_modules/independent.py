"""Independent replicas: R models that train without any exchange, and their ensemble.

    x_i <- optimizer(x_i, grad L(x_i; B_i))        on each of R replicas, each from weights of its own

This is the control experiment for codistillation: codistillation with alpha = 0 is the same. It is also
the base class of codistillation. Each replica is evaluated alone, and the mean over the replicas is
reported. The ensemble is reported as well. Its prediction is the mean of the predictions of the
replicas, and it costs R times as much to serve.

Paper: Anil et al. (2018), "Large Scale Distributed Neural Network Training Through Online
Distillation".
"""

from typing import Any, ClassVar

from torch import Tensor

from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.search import Choice
from paceline.lightning_modules.backend.task import Task


class IndependentReplicas(Algorithm):
    """Replicas that train without any exchange.

    Args:
        task: the task to train.
        ranks_per_replica: the number of ranks that train one replica synchronously.
    """

    name = "independent"
    title = "independent replicas"
    search_space = {"ranks_per_replica": Choice((1, 2, 4, 8))}
    one_model = False
    needs_logits = True  # the ensemble is the mean of the predictions
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)

    def __init__(self, task: Task, ranks_per_replica: int = 1) -> None:
        super().__init__(task)
        self.evaluations["ensemble"] = self._new_evaluation("ensemble")

    def validation_step(self, batch: Any, index: int) -> None:
        logits = self.logits(self.task, batch)
        self.evaluate("validation", logits, batch, index)
        ensemble = self._ensemble(self.task.probabilities(logits))
        self.evaluate("ensemble", self.task.inverse(ensemble), batch, index)

    def predictions(self, batch: Any) -> dict[str, Tensor]:
        own = super().predictions(batch)
        return {**own, "ensemble": self._ensemble(own["model"])}

    def _ensemble(self, predictions: Tensor) -> Tensor:
        """Returns the mean of the predictions of all replicas on the same batch."""
        return self.backend.gather_from_replicas(predictions).mean(dim=0)
