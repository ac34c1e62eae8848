"""Elastic averaging SGD: replicas tied to a centre that follows them, and not set equal to it.

    x_i <- optimizer(x_i, grad L(x_i; B_i))               tau local steps on each of R replicas
    x_i <- x_i - alpha (x_i - c)                          the pull towards the centre c
    c   <- c + beta (sum_i n_i/n x_i - c)                 from the x_i before the pull

n_i of the n examples are replica i's. With beta = R alpha, the default, the pulls are equal and
opposite (the elastic symmetry of the paper), so that replicas keep exploring: a small alpha leaves them
far from the centre. The momentum variant, EAMSGD, is this with an optimizer that has Nesterov momentum.

With alpha = beta = 0 it reduces to independent replicas; with beta = 1 the centre is the plain average.
alpha = 1 puts each replica where the centre was: with beta = 1 that is model averaging twice over, two
runs that take turns, each with every other round of tau steps.

Paper: Zhang, Choromanska and LeCun (2015), "Deep Learning with Elastic Averaging SGD", section 3,
synchronous, with the communication period of algorithm 1.

Evaluated is the centre. Floating-point buffers are part of x_i and c.
"""

from typing import Any

from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import wire_bytes
from paceline.lightning_modules.backend.search import Choice, Integer, Real
from paceline.lightning_modules.backend.state import State
from paceline.lightning_modules.backend.task import Task


class ElasticAveraging(Algorithm):
    """Elastic averaging between replicas.

    Args:
        task: what is trained.
        tau: local steps between two exchanges.
        beta: how far the centre moves towards the average of the replicas.
        alpha: how far a replica moves towards the centre; where it is not given, beta / R.
        ranks_per_replica: ranks that train one replica synchronously.

    Raises:
        ValueError: an argument is out of range.
    """

    name = "elastic_averaging"
    title = "elastic averaging SGD"
    search_space = {
        "tau": Integer(1, 200, log=True),
        "beta": Real(0.1, 1.0),
        "ranks_per_replica": Choice((1, 2, 4, 8)),
    }

    def __init__(
        self,
        task: Task,
        tau: int = 10,
        beta: float = 0.9,
        alpha: float | None = None,
        ranks_per_replica: int = 1,
    ) -> None:
        super().__init__(task)
        if tau < 1:
            raise ValueError(f"tau must be at least 1 step, not {tau}")
        for name, value in (("beta", beta), ("alpha", alpha or 0.0)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be within [0, 1], not {value}")
        self.tau, self.beta, self.alpha = tau, beta, alpha
        self.centre: State | None = None
        self.divergence = 0.0

    def on_train_start(self) -> None:
        if self.alpha is None:
            self.alpha = self.beta / self.backend.layout.replicas
        if self.centre is None:  # else a checkpoint has brought it
            self.centre = self.backend.state()

    def exchange(self, step: int) -> None:
        if step % self.tau:
            return
        assert self.centre is not None
        assert self.alpha is not None
        replica = self.backend.state()
        average = self.mean_over_replicas(replica)
        self.backend.load(replica - self.alpha * (replica - self.centre))
        self.centre = self.centre + self.beta * (average - self.centre)
        self.exchanges += 1

    def evaluated_state(self) -> State | None:
        if self.centre is not None:
            distance = (self.backend.state() - self.centre).weights.norm()
            self.divergence = distance / self.centre.weights.norm()
        return self.centre

    def figures(self) -> dict[str, float]:
        """The replicas' relative distance from the centre."""
        return {"replica_divergence": self.divergence}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["elastic_averaging"] = self.centre

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.centre = checkpoint["elastic_averaging"]

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Beside what the engine sends, an all-reduce of the model's state at each exchange."""
        exchanged = wire_bytes("all_reduce", self.state_bytes, layout.replicas) * self.exchanges
        return exchanged + super().expected_bytes(layout, zero_stage, steps)
