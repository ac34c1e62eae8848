"""Model averaging: replicas train alone and average their weights every tau steps.

    x_i <- optimizer(x_i, grad L(x_i; B_i))                  tau local steps on each of R replicas
    d   =  x - 1/R sum_i x_i                                 x: where the round began
    v   <- mu v + d
    x   <- x - eta (d + mu v),   x_i <- x                    the outer step, Nesterov

With eta = 1 and mu = 0, the default, x becomes the plain average: local SGD, or parallel SGD with
infrequent averaging. With an adaptive inner optimizer and eta < 1, mu > 0 it is DiLoCo. tau as large
as the number of steps is one-shot averaging. With tau = 1, plain SGD and the default outer step it
takes the steps of synchronous SGD. The inner optimizer's state stays with its replica.

Papers: Zinkevich et al. (2010), "Parallelized Stochastic Gradient Descent"; McMahan et al. (2016),
"Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1 with equally
many examples a replica; Douillard et al. (2023), "DiLoCo", algorithm 1.

Evaluated is the average of the replicas' weights.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.backend.algorithm import Algorithm
from lightning_modules.backend.layout import Layout
from lightning_modules.backend.ledger import engine_bytes
from lightning_modules.backend.task import Task


class ModelAveraging(Algorithm):
    """Model averaging between replicas.

    Args:
        task: what is trained.
        tau: local steps between two exchanges.
        ranks_per_replica: ranks that train one replica synchronously.
        outer_lr: eta of the outer step.
        outer_momentum: mu of the outer step.

    Raises:
        ValueError: tau is not positive.
    """

    name = "model_averaging"
    title = "model averaging"

    def __init__(
        self,
        task: Task,
        tau: int = 10,
        ranks_per_replica: int = 1,
        outer_lr: float = 1.0,
        outer_momentum: float = 0.0,
    ) -> None:
        super().__init__(task)
        if tau < 1:
            raise ValueError(f"tau must be at least 1 step, not {tau}")
        self.tau, self.outer_lr, self.outer_momentum = tau, outer_lr, outer_momentum
        self.round_start: Tensor | None = None
        self.velocity: Tensor

    @classmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        ranks = hyper_parameters.get("ranks_per_replica", 1)
        if ranks < 1 or workers % ranks:
            raise ValueError(f"{workers} workers cannot form replicas of {ranks} ranks")
        return Layout(workers // ranks, ranks)

    def on_train_start(self) -> None:
        if self.round_start is None:  # else a checkpoint has brought it
            self.round_start = self.backend.weights()
            self.velocity = torch.zeros_like(self.round_start)

    def exchange(self, step: int) -> None:
        if step % self.tau:
            return
        assert self.round_start is not None
        difference = self.round_start - self._average()
        self.velocity = self.outer_momentum * self.velocity + difference
        outer_step = difference + self.outer_momentum * self.velocity
        self.round_start = self.round_start - self.outer_lr * outer_step
        self.backend.load_weights(self.round_start)

    def _average(self) -> Tensor:
        return self.backend.mean_over_replicas(self.backend.weights())

    def evaluated_weights(self) -> Tensor:
        return self._average()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model_averaging"] = (self.round_start, self.velocity)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.round_start, self.velocity = checkpoint["model_averaging"]

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """An all-reduce of the weights between the replicas every tau steps, and what the engine
        sends inside a replica at every step."""
        exchanged = engine_bytes(self.model_bytes, layout.replicas, 0) * (steps // self.tau)
        return exchanged + engine_bytes(self.model_bytes, layout.ranks, zero_stage) * steps
