"""Elastic averaging SGD: replicas are pulled towards a centre that follows them.

    x_i <- optimizer(x_i, grad L(x_i; B_i))               tau local steps on each of R replicas
    x_i <- x_i - alpha (x_i - c)                          the pull towards the centre c
    c   <- c + beta (sum_i n_i/n x_i - c)                 from the x_i before the pull

The replicas are not set equal to the centre. Replica i holds n_i of the n examples. With beta = R alpha,
the default, the pulls on the replicas and on the centre are equal and opposite. The paper calls this the
elastic symmetry. With a small alpha, the replicas stay far from the centre and explore more. To get the
momentum variant, EAMSGD, use an optimizer with Nesterov momentum.

With alpha = beta = 0, this is the same as independent replicas. With beta = 1, the centre is the plain
average of the replicas. With alpha = 1, each replica moves to the previous centre. With alpha = 1 and
beta = 1, two independent runs of model averaging take turns. Each gets every second round of tau steps.

Paper: Zhang, Choromanska and LeCun (2015), "Deep Learning with Elastic Averaging SGD": the synchronous
algorithm of section 3, with the communication period of algorithm 1.

The centre is evaluated. Floating-point buffers are part of x_i and c.
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
        task: the task to train.
        tau: the number of local steps between two exchanges.
        beta: the part of the distance to the average of the replicas that the centre moves.
        alpha: the part of the distance to the centre that a replica moves. The default is beta / R.
        ranks_per_replica: the number of ranks that train one replica synchronously.

    Raises:
        ValueError: an argument is out of range.
    """

    name = "elastic_averaging"
    title = "elastic averaging SGD"
    rehearsal = {"tau": 1}
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
        if self.centre is None:  # otherwise, it was loaded from a checkpoint
            self.centre = self.backend.state()

    def exchange(self, step: int) -> None:
        if step % self.tau:
            return
        assert self.centre is not None
        assert self.alpha is not None
        replica = self.backend.state()
        average = self.mean_over_replicas(replica)
        replica.move_towards(self.centre, self.alpha)
        self.backend.load(replica)
        self.centre.move_towards(average, self.beta)
        self.exchanges += 1

    def evaluated_state(self) -> State | None:
        if self.centre is not None:
            distance = (self.backend.state() - self.centre).weights.norm()
            self.divergence = distance / self.centre.weights.norm()
        return self.centre

    def figures(self) -> dict[str, float]:
        """Returns the relative distance of the replicas from the centre."""
        return {"replica_divergence": self.divergence}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["elastic_averaging"] = self.centre

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.centre = checkpoint["elastic_averaging"]

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Adds an all-reduce of the model's state at each exchange to what the engine sends."""
        exchanged = wire_bytes("all_reduce", self.state_bytes, layout.replicas) * self.exchanges
        return exchanged + super().expected_bytes(layout, zero_stage, steps)
