"""A shard of a parameter server: some tensors of a model with their optimizer."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from paceline.lightning_modules.backend.schedule import Schedule
from paceline.lightning_modules.backend.state import tensors, trained
from paceline.lightning_modules.backend.task import Task

PUSH, FETCH, READ, STOP = 1, 2, 4, 8  # the kinds of requests; PUSH | FETCH is one request


def shares(sizes: list[int], ranks: int) -> list[list[int]]:
    """Divides tensors, given their sizes in bytes, among the ranks.

    The largest tensor comes first. Each goes to the rank that holds the fewest bytes so far.
    """
    found: list[list[int]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    for tensor in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        rank = held.index(min(held))
        found[rank].append(tensor)
        held[rank] += sizes[tensor]
    return [sorted(share) for share in found]


class Shard:
    """Some whole tensors of a model and their optimizer. Workers push to the shard and fetch from it.

    The optimizer is that of the model, with its parameter groups, restricted to the parameters of this
    shard. They keep their shapes. The schedule of its learning rates is advanced by the mean number of
    steps that a worker has pushed. For a buffer, a worker pushes its own values, and the shard moves its
    values by 1/N of the difference towards them, for N workers.

    Attributes:
        clock: the number of pushes that were applied.
        staleness: the number of pushes for each staleness. The staleness of a push is the number of
            pushes of other workers that were applied between the worker's fetch of the weights and its
            push of the gradient computed on them.

    Args:
        model: a copy of the model that nothing else uses.
        share: the places of this shard's tensors in the list of trained parameters, followed by buffers.
        workers: N, the number of workers.
        scheduled: returns the optimizer of a model with its schedule.
        n_push: the number of steps of a worker that a push stands for.
        staleness_aware: if True, the learning rate of a push is divided by its staleness.
    """

    def __init__(
        self,
        model: Task,
        share: list[int],
        workers: int,
        scheduled: Callable[[Task], Schedule],
        n_push: int = 1,
        staleness_aware: bool = False,
    ) -> None:
        parameters, statistics = trained(model), tensors(model, "buffers")
        self.parameters = [parameters[i] for i in share if i < len(parameters)]
        self.buffers = [statistics[i - len(parameters)] for i in share if i >= len(parameters)]
        self.schedule = scheduled(model)
        self.optimizer = self.schedule.optimizer
        _restrict(self.optimizer, self.parameters)
        self.workers, self.n_push, self.staleness_aware = workers, n_push, staleness_aware
        self.clock = 0
        self.fetched_at: Counter[int] = Counter()
        self.staleness: Counter[int] = Counter()

    @property
    def tensors(self) -> list[Tensor]:
        return [*(p.detach() for p in self.parameters), *self.buffers]

    def serve(self, worker: int, kind: int, pushed: list[Tensor]) -> list[Tensor]:
        """Serves a request, and returns the tensors that it asks for, without a copy."""
        if kind & PUSH:
            self.push(worker, pushed)
        return self.fetch(worker, kind) if kind & (FETCH | READ) else []

    def push(self, worker: int, pushed: list[Tensor]) -> None:
        """Applies a gradient of each parameter and the worker's values of each buffer."""
        staleness = self.clock - self.fetched_at[worker]
        if self.staleness_aware:
            self.schedule.scale(1 / max(1, staleness))
        gradients, held = pushed[: len(self.parameters)], pushed[len(self.parameters) :]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        for buffer, theirs in zip(self.buffers, held, strict=True):
            buffer.lerp_(theirs, 1 / self.workers)
        self.staleness[staleness] += 1
        self.clock += 1
        self.schedule.advance(self.clock * self.n_push // self.workers)
        self.fetched_at[worker] += 1  # a worker's own pushes do not count as staleness

    def fetch(self, worker: int, kind: int) -> list[Tensor]:
        """Returns the current tensors, without a copy."""
        # An evaluation is not a fetch. The weights that the worker trains on do not change.
        if kind & FETCH:
            self.fetched_at[worker] = self.clock
        return self.tensors

    def state(self) -> dict[str, Any]:
        """Returns everything that changes, for a checkpoint."""
        return {
            "tensors": self.tensors,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "counts": (self.clock, self.fetched_at, self.staleness),
        }

    def load(self, state: dict[str, Any]) -> None:
        for tensor, saved in zip(self.tensors, state["tensors"], strict=True):
            tensor.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.clock, self.fetched_at, self.staleness = state["counts"]


def _restrict(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Removes all other parameters from an optimizer that has not taken a step yet.

    Groups stay, even if they are empty then, because schedulers keep a rate for each.
    """
    kept = set(parameters)
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p in kept]
    for parameter in set(optimizer.state) - kept:
        del optimizer.state[parameter]
