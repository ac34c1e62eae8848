"""A parameter server whose shards are held by the ranks of a trial themselves."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import deepspeed.comm as dist
import torch
import torch.distributed
from torch import Tensor, nn

from lightning_modules.backend.ledger import Ledger

# What a request asks for, and the tags of the messages: gloo matches them whatever their order.
PUSH, FETCH, READ, STOP = range(4)
REQUEST_TAG, GRADIENT_TAG, WEIGHTS_TAG, RELEASE_TAG = range(1, 5)
REQUEST_BYTES = 8
# A receive that times out closes the connection for good, so none may; the parent supervises.
TIMEOUT = timedelta(days=7)

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Shard:
    """A part of the weights with its optimizer: gradients are pushed to it, weights fetched.

    Attributes:
        clock: pushes applied.
        staleness: how many pushes had which staleness: the pushes applied between the fetch of the
            weights that a gradient was computed on and the gradient itself.

    Args:
        weights: [p], where it begins.
        make_optimizer: the optimizer that applies a push.
        staleness_aware: divide the learning rate of a push by its staleness.
    """

    def __init__(
        self, weights: Tensor, make_optimizer: MakeOptimizer, staleness_aware: bool
    ) -> None:
        self.weights = nn.Parameter(weights.clone())
        self.optimizer = make_optimizer([self.weights])
        self.lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.staleness_aware = staleness_aware
        self.clock = 0
        self.fetched_at: Counter[int] = Counter()
        self.staleness: Counter[int] = Counter()

    def push(self, worker: int, gradient: Tensor) -> None:
        staleness = self.clock - self.fetched_at[worker]
        if self.staleness_aware:
            for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
                group["lr"] = lr / max(1, staleness)
        self.weights.grad = gradient
        self.optimizer.step()
        self.staleness[staleness] += 1
        self.clock += 1

    def fetch(self, worker: int, kind: int) -> Tensor:
        """A copy of the weights [p]."""
        # An evaluation is no fetch: what the worker trains on stays as old as it is.
        if kind == FETCH:
            self.fetched_at[worker] = self.clock
        return self.weights.detach().clone()

    def state(self) -> dict[str, Any]:
        """All that changes, for a checkpoint."""
        return {
            "weights": self.weights.detach(),
            "optimizer": self.optimizer.state_dict(),
            "counts": (self.clock, self.fetched_at, self.staleness),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.weights.data.copy_(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.clock, self.fetched_at, self.staleness = state["counts"]


class ParameterServer:
    """One shard here, served to the other ranks by a thread; theirs, reached by messages.

    The weights lie on CPUs and the messages go over gloo, also where ranks train on GPUs: NCCL can
    neither receive from whoever sends first nor be used from two threads.

    Attributes:
        served: the rank whose request this shard served, in the order in which it did.

    Args:
        weights: [P], the same on every rank; they are cut into a shard a rank.
        make_shard: makes the shard of this rank from its part of them.
        ledger: what takes down the replies that the thread sends.
        replay: the order in which requests are to be served; None, or beyond its end, as they come.
    """

    def __init__(
        self,
        weights: Tensor,
        make_shard: Callable[[Tensor], Shard],
        ledger: Ledger,
        replay: list[int] | None = None,
    ) -> None:
        # Of its own, as gloo lets two threads use two groups at once; collective.
        self.group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)
        self.rank = torch.distributed.get_rank()
        self.ranks = torch.distributed.get_world_size()
        self.others = [rank for rank in range(self.ranks) if rank != self.rank]
        parts = weights.cpu().tensor_split(self.ranks)
        self.sizes = [len(part) for part in parts]
        self.shard = make_shard(parts[self.rank])
        self.ledger, self.replay = ledger, replay
        self.served: list[int] = []
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Ends when every rank has stopped."""
        for rank in self.others:
            self._request(STOP, rank)
        self._thread.join()

    def push(self, gradient: Tensor) -> None:
        """Applies `gradient` [P] to all shards, each as soon as it is free."""
        parts = gradient.cpu().split(self.sizes)
        sending = []
        for rank in self.others:
            self._request(PUSH, rank)
            sending.append(dist.isend(parts[rank], rank, self.group, GRADIENT_TAG))
        with self._served_in_turn(self.rank):
            self.shard.push(self.rank, parts[self.rank].clone())
        for work in sending:
            work.wait()

    def fetch(self, kind: int = FETCH) -> Tensor:
        """The weights [P] of all shards, each as of now; READ is a fetch to evaluate them."""
        parts = [torch.empty(size) for size in self.sizes]
        receiving = []
        for rank in self.others:
            self._request(kind, rank)
            receiving.append(dist.irecv(parts[rank], rank, self.group, WEIGHTS_TAG))
        with self._served_in_turn(self.rank):
            parts[self.rank] = self.shard.fetch(self.rank, kind)
        for work in receiving:
            work.wait()
        return torch.cat(parts)

    def release(self) -> None:
        """Lets the others go on that wait for this rank."""
        for rank in self.others:
            dist.send(torch.zeros(1), rank, self.group, RELEASE_TAG)

    def wait_for_release(self) -> None:
        """Waits for rank 0."""
        dist.recv(torch.empty(1), 0, self.group, RELEASE_TAG)

    def _request(self, kind: int, rank: int) -> None:
        dist.send(torch.tensor([kind]), rank, self.group, REQUEST_TAG)

    @contextmanager
    def _served_in_turn(self, worker: int) -> Iterator[None]:
        """Holds the shard, in a replay only when it is the turn of `worker`."""
        with self._turn:
            self._turn.wait_for(lambda: self._next_in_replay() in (worker, None))
            yield
            self.served.append(worker)
            self._turn.notify_all()

    def _next_in_replay(self) -> int | None:
        done = len(self.served)
        return self.replay[done] if self.replay and done < len(self.replay) else None

    def _sender(self) -> int | None:
        """Whose request to receive next; None is anybody's."""
        with self._turn:
            self._turn.wait_for(lambda: self._next_in_replay() != self.rank)
            return self._next_in_replay()

    def _serve(self) -> None:
        running = len(self.others)
        request = torch.empty(1, dtype=torch.int64)
        gradient = torch.empty(self.sizes[self.rank])
        while running:
            worker = dist.recv(request, self._sender(), self.group, REQUEST_TAG)
            kind = int(request)
            if kind == STOP:
                running -= 1
            elif kind == PUSH:
                dist.recv(gradient, worker, self.group, GRADIENT_TAG)
                with self._served_in_turn(worker):
                    self.shard.push(worker, gradient)
            else:
                with self._served_in_turn(worker):
                    weights = self.shard.fetch(worker, kind)
                with self.ledger.during("exchange" if kind == FETCH else "evaluation"):
                    dist.send(weights, worker, self.group, WEIGHTS_TAG)
