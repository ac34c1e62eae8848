"""Codistillation: each replica trains separately and also learns from the predictions of the others.

    L_i = phi(y, f(x_i)) + alpha psi(1/(R-1) sum_{j != i} f(x~_j), f(x_i))       on each of R replicas

phi is the loss of the task. psi is the same loss with the mean prediction of the other replicas as its
target, that is, cross-entropy on soft targets. x~_j are the weights of replica j at the latest exchange,
which is up to T steps old. No gradient flows through them: they teach, and x_i learns. psi is added from
the first exchange at or after `burn_in` steps. Each replica starts with its own weights.

With `teachers: checkpoints`, the default, the replicas exchange their weights every T steps. Each
exchange sends R - 1 times the model and does not depend on the batch size. With
`teachers: predictions`, the replicas exchange at every step their current predictions on a batch that
all of them see (partition `same`). The number of bytes then grows with the batch and not with the model.

With alpha = 0, codistillation is the same as independent replicas.

Paper: Anil et al. (2018), "Large Scale Distributed Neural Network Training Through Online
Distillation", algorithm 1.

Each replica is evaluated alone. The ensemble of all replicas is evaluated as well.
"""

from copy import deepcopy
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor

from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import wire_bytes
from paceline.lightning_modules.backend.search import Choice, Integer, Real
from paceline.lightning_modules.backend.state import State, groups
from paceline.lightning_modules.backend.task import Task
from paceline.lightning_modules.independent import IndependentReplicas


class Codistillation(IndependentReplicas):
    """Codistillation between replicas.

    Args:
        task: the task to train.
        ranks_per_replica: the number of ranks that train one replica synchronously.
        alpha: the weight of the distillation loss psi.
        burn_in: the number of steps before psi is added.
        period: T, the number of steps between two exchanges of checkpoints.
        teachers: what the replicas exchange: their weights (`checkpoints`) or their predictions.

    Raises:
        ValueError: an argument is out of range, or there is only one replica.
    """

    name = "codistillation"
    title = "codistillation"
    rehearsal = {"burn_in": 1, "period": 1}
    zero_stages = (0, 1, 2)
    search_space = {
        "ranks_per_replica": Choice((1, 2, 4, 8)),
        "alpha": Real(0.1, 10.0, log=True),
        "burn_in": Integer(10, 1000, log=True),
        "period": Integer(5, 500, log=True),
    }

    def __init__(
        self,
        task: Task,
        ranks_per_replica: int = 1,
        alpha: float = 1.0,
        burn_in: int = 100,
        period: int = 50,
        teachers: Literal["checkpoints", "predictions"] = "checkpoints",
    ) -> None:
        super().__init__(task, ranks_per_replica)
        if period < 1:
            raise ValueError(f"period must be at least 1 step, not {period}")
        if alpha < 0 or burn_in < 0:
            raise ValueError(f"alpha and burn_in must not be negative: {alpha}, {burn_in}")
        self.alpha, self.burn_in, self.period, self.teachers = alpha, burn_in, period, teachers
        self.checkpoints: list[State] | None = None
        self.models: list[Task] = []  # a plain list, so that torch does not train the teachers
        self.agreement = torch.zeros(())
        self.row_bytes = 0

    @classmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        layout = super().layout(workers, **hyper_parameters)
        if layout.replicas < 2:
            raise ValueError(f"codistillation needs two replicas, and {workers} workers form one")
        return layout

    def on_train_start(self) -> None:
        if self.teachers == "checkpoints":
            # Frozen layers are sent once, before training. The exchanges do not send them.
            self._teach(self._of_others(State.of(groups(self.task, "frozen"))))
        if self.checkpoints is not None:
            self._teach(self.checkpoints)

    def exchange(self, step: int) -> None:
        if self.teachers == "predictions" or step % self.period or step < self.burn_in:
            return
        self.checkpoints = self._of_others(self.backend.state())
        self._teach(self.checkpoints)
        self.exchanges += 1

    def _of_others(self, state: State) -> list[State]:
        """Returns this `state` of every other replica. It takes one all-gather per part."""
        gathered = state.map(self.backend.gather_from_replicas)
        replicas = [i for i in range(self.backend.layout.replicas) if i != self.backend.replica]
        return [gathered.map(itemgetter(i)) for i in replicas]

    def _teach(self, states: list[State]) -> None:
        """Copies the states of the other replicas into the models that teach."""
        while len(self.models) < len(states):
            self.models.append(deepcopy(self.task).eval())
        for model, state in zip(self.models, states, strict=True):
            state.copy_to(model)

    def added_loss(self, batch: Any, logits: Tensor) -> Tensor | float:
        targets = self._targets(batch, logits)
        if targets is None or not self.alpha:
            return 0.0
        agreement = self.task.loss(logits, targets)
        self.agreement = agreement.detach()
        return self.alpha * agreement

    @torch.no_grad()
    def _targets(self, batch: Any, logits: Tensor) -> Tensor | None:
        """Returns the mean prediction of the other replicas on this batch, or None if there is none."""
        if self.teachers == "checkpoints":
            if self.checkpoints is None:
                return None
            predictions = [m.probabilities(self.logits(m, batch)) for m in self.models]
            return torch.stack(predictions).mean(dim=0)
        if self.trainer.global_step < self.burn_in:
            return None
        own = self.task.probabilities(logits.detach())
        with self.backend.exchanging():
            gathered = self.backend.gather_from_replicas(own)
        if not self.exchanges:
            self._check_batches(self.task.labels(batch))
        self.exchanges += 1
        self.row_bytes = own.numel() * own.element_size()
        return (gathered.sum(dim=0) - own) / (len(gathered) - 1)

    def _check_batches(self, labels: Tensor) -> None:
        if not (self.backend.gather_from_replicas(labels) == labels).all():
            raise ValueError(
                "teachers: predictions needs replicas that see the same batches; set partition.kind"
                " to same"
            )

    def figures(self) -> dict[str, float]:
        """Returns psi at the latest step of this rank."""
        return {"agreement_loss": float(self.agreement)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["codistillation"] = self.checkpoints

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.checkpoints = checkpoint["codistillation"]

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Counts the exchanges and what the engine sends inside a replica at every step.

        An exchange sends a checkpoint, or the predictions on a batch, to each other replica.
        """
        payload = self.state_bytes if self.teachers == "checkpoints" else self.row_bytes
        exchanged = wire_bytes("all_gather", payload, layout.replicas) * self.exchanges
        return exchanged + super().expected_bytes(layout, zero_stage, steps)
