"""Consensus ADMM: each replica minimises its own loss and is pulled towards a common consensus z.

    x_i <- K optimizer steps on f_i(x_i) + rho/2 |x_i - z + u_i|^2        on each of R replicas
    z   <- argmin_z g(z) + rho/2 |z - sum_i n_i/n (x_i + u_i)|^2          one all-reduce
    u_i <- u_i + x_i - z                                                  the scaled dual

These steps minimise sum_i n_i/n f_i(x) + g(x). f_i is the mean loss over the n_i of n examples that
replica i holds. g is a penalty. With v the mean of x_i + u_i, the update of z has a closed form:

    none: z = v
    l2, g = lambda/2 |z|^2: z = rho v / (rho + lambda)
    l1, g = lambda |z|_1: z = sign(v) max(|v| - lambda / rho, 0)

The primal residual r = |x_i - z|, over all replicas, and the dual residual s = rho sqrt(R) |z - z_before|
fall to zero. With `adapt_rho`, rho doubles if r > 10 s and halves if s > 10 r, and u is rescaled.
Training ends at the next evaluation when r <= tolerance max(|x|, sqrt(R) |z|) and
s <= tolerance rho |u|.

On a convex problem, ADMM converges to the centralised optimum. On a neural network it is a heuristic.
There, rho determines how closely the replicas are held together.

Paper: Boyd et al. (2011), "Distributed Optimization and Statistical Learning via the Alternating
Direction Method of Multipliers", sections 3.3, 3.4.1, 7.1 and 7.1.1.

The consensus z is evaluated, with the mean of the replicas' buffers.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import wire_bytes
from paceline.lightning_modules.backend.search import Integer, Real
from paceline.lightning_modules.backend.state import State, trained
from paceline.lightning_modules.backend.task import Task

BALANCE, FACTOR = 10.0, 2.0  # ratio of the residuals and change of rho, Boyd et al. equation 3.13


class ConsensusADMM(Algorithm):
    """Consensus ADMM between replicas of one rank each.

    Args:
        task: the task to train.
        local_steps: K, the number of optimizer steps between two exchanges.
        rho: the weight of the pull towards the consensus.
        adapt_rho: if True, rho is changed to balance the two residuals.
        penalty: the penalty g.
        penalty_weight: lambda, the weight of the penalty.
        tolerance: the relative size of both residuals at which training ends. With 0, it never ends
            early.

    Raises:
        ValueError: an argument is out of range.
    """

    name = "admm"
    title = "consensus ADMM"
    rehearsal = {"local_steps": 1}
    search_space = {
        "local_steps": Integer(1, 100, log=True),
        "rho": Real(1e-4, 1.0, log=True),
    }

    def __init__(
        self,
        task: Task,
        local_steps: int = 10,
        rho: float = 0.01,
        adapt_rho: bool = False,
        penalty: Literal["none", "l2", "l1"] = "none",
        penalty_weight: float = 1e-4,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__(task)
        if local_steps < 1:
            raise ValueError(f"local_steps must be at least 1, not {local_steps}")
        if not rho > 0:
            raise ValueError(f"rho must be positive, not {rho}")
        self.local_steps, self.rho, self.adapt_rho = local_steps, rho, adapt_rho
        self.penalty, self.penalty_weight, self.tolerance = penalty, penalty_weight, tolerance
        self.consensus: State | None = None
        self.dual: State
        self.primal_residual = self.dual_residual = 0.0
        self.converged = False

    def on_train_start(self) -> None:
        if self.consensus is None:  # otherwise, it was loaded from a checkpoint
            self.consensus = self.backend.state()
            self.dual = self.consensus.weights.map(torch.zeros_like)
        self.aim = self.dual.map(torch.empty_like)
        self.aims = self.aim.tensors()
        self._aim()

    def _aim(self) -> None:
        """Computes rho (z - u_i), in the shapes of the parameters as `aims`."""

        def aim(place: Tensor, consensus: Tensor, dual: Tensor) -> Tensor:
            return torch.sub(consensus, dual, out=place).mul_(self.rho)

        assert self.consensus is not None
        self.aim.map(aim, self.consensus.weights, self.dual)

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        # rho x_i is rounded as the aim is, so the pull is exactly 0 where x_i has not moved. Adagrad and
        # Adam would turn a rounding error there into a whole step.
        gradients, weights = self.backend.gradients(), tuple(trained(self.task))
        torch._foreach_add_(gradients, weights, alpha=self.rho)
        torch._foreach_sub_(gradients, self.aims)

    def added_loss(self, batch: Any, logits: Tensor) -> Tensor | float:
        if not self.backend.zero_stage:
            return 0.0  # the pull is in the gradients
        pairs = zip(trained(self.task), self.aims, strict=True)
        return torch.stack([(x * (self.rho / 2 * x - aim)).sum() for x, aim in pairs]).sum()

    def exchange(self, step: int) -> None:
        if step % self.local_steps:
            return
        assert self.consensus is not None
        # In place where possible. The memory of a new vector costs more than computing it.
        state, before = self.backend.state(), self.consensus.weights
        weights = state.weights
        self.dual += weights
        mean = self.mean_over_replicas(self.dual | state.buffers)
        consensus = mean.weights.map(self._proximal)
        self.consensus = consensus | mean.buffers
        self.dual -= consensus
        norms = [weights.norm(), self.dual.norm()] if self.tolerance else []
        weights -= consensus
        before -= consensus
        squares = torch.tensor([*norms, weights.norm()], dtype=torch.float64).square()
        found = self.backend.sum_over_replicas(squares.to(self.device)).sqrt().tolist()
        *scales, self.primal_residual = found
        replicas = self.backend.layout.replicas**0.5
        self.dual_residual = self.rho * replicas * before.norm()
        if scales:
            local, dual = scales
            self.converged = (
                self.primal_residual <= self.tolerance * max(local, replicas * consensus.norm())
                and self.dual_residual <= self.tolerance * self.rho * dual
            )
        if self.adapt_rho:
            self._balance()
        self._aim()
        self.exchanges += 1

    def _proximal(self, mean: Tensor) -> Tensor:
        if self.penalty == "l2":
            return mean * (self.rho / (self.rho + self.penalty_weight))
        if self.penalty == "l1":
            return torch.nn.functional.softshrink(mean, self.penalty_weight / self.rho)
        return mean

    def _balance(self) -> None:
        if self.primal_residual > BALANCE * self.dual_residual:
            factor = FACTOR
        elif self.dual_residual > BALANCE * self.primal_residual:
            factor = 1 / FACTOR
        else:
            return
        self.rho *= factor
        self.dual = self.dual * (1 / factor)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        # The residuals are the same on every rank.
        self.trainer.should_stop |= self.converged

    def evaluated_state(self) -> State | None:
        return self.consensus

    def figures(self) -> dict[str, float]:
        """Returns the residuals after the latest exchange, and rho."""
        if not self.exchanges:
            return {}
        residuals = {"primal_residual": self.primal_residual, "dual_residual": self.dual_residual}
        return {**residuals, "rho": self.rho}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        residuals = (self.primal_residual, self.dual_residual)
        checkpoint["admm"] = (self.consensus, self.dual, self.rho, residuals)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.consensus, self.dual, self.rho, residuals = checkpoint["admm"]
        self.primal_residual, self.dual_residual = residuals

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Counts an all-reduce of the model's state and one of the residual's norm every K steps.

        With a tolerance, two norms are sent in addition.
        """
        payload = self.state_bytes + 8 * (3 if self.tolerance else 1)
        return wire_bytes("all_reduce", payload, layout.replicas) * (steps // self.local_steps)
