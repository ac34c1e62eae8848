"""A parameter server whose shards are held by the ranks of a trial themselves."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from paceline.lightning_modules.backend.clock import Clock
from paceline.lightning_modules.backend.ledger import Ledger

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
        comm: `deepspeed.comm`, whose messages the ledger counts. It is not imported here, as that takes
            seconds also in processes that only ask for the algorithms' names.
        ledger: takes down the replies that the thread sends under their phase.
        clock: takes down the CPU time of the thread.
        replay: the order in which requests are to be served; None, or beyond its end, as they come.
    """

    def __init__(
        self,
        weights: Tensor,
        make_shard: Callable[[Tensor], Shard],
        comm: Any,
        ledger: Ledger,
        clock: Clock,
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
        self.comm, self.ledger, self.clock, self.replay = comm, ledger, clock, replay
        self.served: list[int] = []
        self._turn = threading.Condition()  # its lock guards the shard and what follows
        self._waiting: list[tuple[int, int, Tensor]] = []  # received: worker, kind, gradient
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
            sending.append(self.comm.isend(parts[rank], rank, self.group, GRADIENT_TAG))
        with self._own_turn():
            self.shard.push(self.rank, parts[self.rank].clone())
        for work in sending:
            work.wait()

    def fetch(self, kind: int = FETCH) -> Tensor:
        """The weights [P] of all shards, each as of now; READ is a fetch to evaluate them."""
        parts = [torch.empty(size) for size in self.sizes]
        receiving = []
        for rank in self.others:
            self._request(kind, rank)
            receiving.append(self.comm.irecv(parts[rank], rank, self.group, WEIGHTS_TAG))
        with self._own_turn():
            parts[self.rank] = self.shard.fetch(self.rank, kind)
        for work in receiving:
            work.wait()
        return torch.cat(parts)

    def release(self) -> None:
        """Lets the others go on that wait for this rank."""
        for rank in self.others:
            self.comm.send(torch.zeros(1), rank, self.group, RELEASE_TAG)

    def wait_for_release(self) -> None:
        """Waits for rank 0."""
        self.comm.recv(torch.empty(1), 0, self.group, RELEASE_TAG)

    def _request(self, kind: int, rank: int) -> None:
        self.comm.send(torch.tensor([kind]), rank, self.group, REQUEST_TAG)

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """Holds the shard for this rank, in a replay only when it is its turn."""
        with self._turn:
            self._turn.wait_for(lambda: self._next() in (self.rank, None))
            yield
            self.served.append(self.rank)
            self._serve_waiting()

    def _next(self) -> int | None:
        """Whose turn it is; None is anybody's."""
        done = len(self.served)
        return self.replay[done] if self.replay and done < len(self.replay) else None

    def _serve(self) -> None:
        running = len(self.others)
        while running:
            kind = torch.empty(1, dtype=torch.int64)
            worker = self.comm.recv(kind, None, self.group, REQUEST_TAG)
            if kind == STOP:
                running -= 1
                continue
            gradient = torch.empty(self.sizes[self.rank] if kind == PUSH else 0)
            if kind == PUSH:
                self.comm.recv(gradient, worker, self.group, GRADIENT_TAG)
            # Received at once also in a replay, so that its sender can go on; served in its turn.
            with self._turn, self.clock.working():
                self._waiting.append((worker, int(kind), gradient))
                self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Serves the requests whose turn has come; the caller holds the shard."""
        while (turn := self._whose_turn_has_come()) is not None:
            worker, kind, gradient = self._waiting.pop(turn)
            if kind == PUSH:
                self.shard.push(worker, gradient)
            else:
                weights = self.shard.fetch(worker, kind)
                with self.ledger.during("exchange" if kind == FETCH else "evaluation"):
                    self.comm.send(weights, worker, self.group, WEIGHTS_TAG)
            self.served.append(worker)
        self._turn.notify_all()

    def _whose_turn_has_come(self) -> int | None:
        """The place of a request among those that wait."""
        served_next = self._next()
        return next(
            (i for i, (worker, *_) in enumerate(self._waiting) if served_next in (worker, None)),
            None,
        )
