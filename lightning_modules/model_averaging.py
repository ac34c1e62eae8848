"""Model averaging: replicas train independently and average their weights every tau steps.

    x_i <- optimizer(x_i, grad L(x_i; B_i))                  tau local steps on each of R replicas
    d   =  x - sum_i n_i/n x_i                               x: where the round began
    v   <- mu v + d
    x   <- x - eta (d + mu v),   x_i <- x                    the outer step, Nesterov

Replica i holds n_i of the n examples. The state of the inner optimizer is not averaged. Each replica
keeps its own. Several published algorithms are special cases:

- With eta = 1 and mu = 0, the default, x becomes the plain average. This is local SGD, or FedAvg with
  all clients.
- With an adaptive inner optimizer, eta < 1 and mu > 0, it is DiLoCo.
- With `warmup_steps`, the weights are averaged after each of the first steps. This is post-local SGD.
- With tau equal to the number of steps, it is one-shot averaging.
- With tau = 1, plain SGD and the default outer step, it takes the same steps as synchronous SGD.

Co-learning restarts the learning rate in each round. At step j of a round, lr_j = lr decay^(j / tau),
where lr is the rate of the task's own schedule. Co-learning doubles tau when the average has hardly
moved: |x - x_before| <= epsilon |x_before|.

Papers: Zinkevich et al. (2010), "Parallelized Stochastic Gradient Descent"; McMahan et al. (2016),
"Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1; Lin et al.
(2018), "Don't Use Large Mini-Batches, Use Local SGD"; Xu et al. (2018), "Collaborative Deep Learning
Across Multiple Data Centers"; Douillard et al. (2023), "DiLoCo", algorithm 1.

The average of the replicas' weights and buffers is evaluated. At every exchange, buffers become their
plain average. The outer step can go beyond the average and could make a variance negative.
"""

from typing import Any

import torch

from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import wire_bytes
from paceline.lightning_modules.backend.search import Choice, Integer, Real
from paceline.lightning_modules.backend.state import State
from paceline.lightning_modules.backend.task import Task


class ModelAveraging(Algorithm):
    """Model averaging between replicas.

    Args:
        task: the task to train.
        tau: the number of local steps between two exchanges.
        local_epochs: if given, it replaces `tau`. It is the number of passes over the examples of a
            replica with an average share between two exchanges. All replicas take the same number of
            steps.
        ranks_per_replica: the number of ranks that train one replica synchronously.
        outer_lr: eta, the learning rate of the outer step.
        outer_momentum: mu, the momentum of the outer step.
        warmup_steps: the number of steps at the start that each end with a plain average.
        lr_decay: the factor by which the learning rate falls in a round.
        epsilon: the relative movement of the average up to which tau doubles. With 0, tau never doubles.

    Raises:
        ValueError: an argument is out of range.
    """

    name = "model_averaging"
    title = "model averaging"
    rehearsal = {"tau": 1, "local_epochs": None, "warmup_steps": 1}
    search_space = {
        "tau": Integer(1, 200, log=True),
        "ranks_per_replica": Choice((1, 2, 4, 8)),
        "outer_lr": Real(0.5, 1.5),
        "outer_momentum": Real(0.0, 0.9),
    }

    def __init__(
        self,
        task: Task,
        tau: int = 10,
        local_epochs: float | None = None,
        ranks_per_replica: int = 1,
        outer_lr: float = 1.0,
        outer_momentum: float = 0.0,
        warmup_steps: int = 0,
        lr_decay: float = 1.0,
        epsilon: float = 0.0,
    ) -> None:
        super().__init__(task)
        if tau < 1:
            raise ValueError(f"tau must be at least 1 step, not {tau}")
        if local_epochs is not None and not local_epochs > 0:
            raise ValueError(f"local_epochs must be positive, not {local_epochs}")
        if not 0 < lr_decay <= 1:
            raise ValueError(f"lr_decay must be within (0, 1], not {lr_decay}")
        self.tau, self.local_epochs = tau, local_epochs
        self.outer_lr, self.outer_momentum = outer_lr, outer_momentum
        self.warmup_steps, self.lr_decay, self.epsilon = warmup_steps, lr_decay, epsilon
        self.next_exchange, self.round_begin = 0, 0
        # By default, the outer step is the plain average, which needs neither x nor v.
        self.outer = outer_lr != 1 or outer_momentum != 0 or epsilon > 0
        self.round_start: State | None = None
        self.velocity: State | None = None
        self.divergence = 0.0

    def on_train_start(self) -> None:
        if self.next_exchange:
            return  # it was loaded from a checkpoint
        if self.local_epochs is not None:
            self.tau = max(1, round(self.local_epochs * self.epoch_steps))
        if self.outer:
            self.round_start = self.backend.state().weights
            self.velocity = self.round_start.map(torch.zeros_like)
        self.next_exchange = 1 if self.warmup_steps else self.tau

    def on_train_batch_start(self, *_: Any) -> None:
        if self.lr_decay < 1:
            passed = (self.trainer.global_step - self.round_begin) / self.tau
            self.schedule.scale(self.lr_decay**passed)

    def exchange(self, step: int) -> None:
        if step < self.next_exchange:
            return
        average = self._average()
        weights = average.weights
        if self.outer:
            if step > self.warmup_steps:
                weights = self._outer_step(weights)
            self.round_start = weights
        self.backend.load(weights | average.buffers)
        self.exchanges += 1
        self.round_begin = step
        self.next_exchange = step + (1 if step < self.warmup_steps else self.tau)

    def _outer_step(self, average: State) -> State:
        """Returns x after the outer step, and doubles tau if x has hardly moved."""
        before = self.round_start
        assert before is not None
        assert self.velocity is not None
        difference = before - average
        self.velocity = self.outer_momentum * self.velocity + difference
        after = before - self.outer_lr * (difference + self.outer_momentum * self.velocity)
        if self.epsilon and (after - before).norm() <= self.epsilon * before.norm():
            self.tau *= 2
        return after

    def _average(self) -> State:
        return self.mean_over_replicas(self.backend.state())

    def evaluated_state(self) -> State:
        average = self._average()
        distance = (self.backend.state() - average).weights.norm()
        self.divergence = distance / average.weights.norm()
        return average

    def figures(self) -> dict[str, float]:
        """Returns the relative distance of the replicas from their average, and tau in steps."""
        return {"replica_divergence": self.divergence, "tau": self.tau}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rounds = (self.tau, self.next_exchange, self.round_begin)
        checkpoint["model_averaging"] = (self.round_start, self.velocity, rounds)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.round_start, self.velocity, rounds = checkpoint["model_averaging"]
        self.tau, self.next_exchange, self.round_begin = rounds

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Adds an all-reduce of the model's state at each exchange to what the engine sends."""
        exchanged = wire_bytes("all_reduce", self.state_bytes, layout.replicas) * self.exchanges
        return exchanged + super().expected_bytes(layout, zero_stage, steps)
