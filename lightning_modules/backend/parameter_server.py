"""A parameter server whose shards are held by the ranks of a trial themselves."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from paceline.lightning_modules.backend.clock import Clock
from paceline.lightning_modules.backend.ledger import Ledger
from paceline.lightning_modules.backend.state import pack, tensors, trained, unpack
from paceline.lightning_modules.backend.task import Task

# What a request asks for, and the tags of the messages: gloo matches them whatever their order.
PUSH, FETCH, READ, STOP = range(4)
REQUEST_TAG, PUSH_TAG, FETCH_TAG, RELEASE_TAG = range(1, 5)
REQUEST_BYTES = 8
# A receive that times out closes the connection for good, so none may; the parent supervises.
TIMEOUT = timedelta(days=7)


def shares(sizes: list[int], ranks: int) -> list[list[int]]:
    """Which tensors, given their bytes, lie on which rank: the largest first, where there is least."""
    found: list[list[int]] = [[] for _ in range(ranks)]
    held = [0] * ranks
    for tensor in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        rank = held.index(min(held))
        found[rank].append(tensor)
        held[rank] += sizes[tensor]
    return [sorted(share) for share in found]


class Shard:
    """Some whole tensors of a model with its optimizer: workers push to them and fetch them.

    The optimizer is that of the model, with its groups, on the parameters among the tensors; those keep
    their shapes. Of a buffer a worker pushes what it holds, and the shard moves by 1/N towards it for N
    workers.

    Attributes:
        clock: pushes applied.
        staleness: how many pushes had which staleness: the pushes of other workers applied between the
            fetch of the weights that a gradient was computed on and the gradient itself.

    Args:
        model: a copy of the model, which nobody else uses.
        share: the places of this shard's tensors among its trained parameters and then its buffers.
        workers: N.
        staleness_aware: divide the learning rate of a push by its staleness.
    """

    def __init__(
        self, model: Task, share: list[int], workers: int, staleness_aware: bool = False
    ) -> None:
        parameters, statistics = trained(model), tensors(model, "buffers")
        self.parameters = [parameters[i] for i in share if i < len(parameters)]
        self.buffers = [statistics[i - len(parameters)] for i in share if i >= len(parameters)]
        self.optimizer = _restricted(model.configure_optimizer(parameters), self.parameters)
        self.lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.workers, self.staleness_aware = workers, staleness_aware
        self.clock = 0
        self.fetched_at: Counter[int] = Counter()
        self.staleness: Counter[int] = Counter()

    @property
    def tensors(self) -> list[Tensor]:
        return [*(p.detach() for p in self.parameters), *self.buffers]

    def push(self, worker: int, pushed: list[Tensor]) -> None:
        """Applies a gradient of each parameter, and what the worker holds of each buffer."""
        staleness = self.clock - self.fetched_at[worker]
        if self.staleness_aware:
            for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
                group["lr"] = lr / max(1, staleness)
        gradients, held = pushed[: len(self.parameters)], pushed[len(self.parameters) :]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        for buffer, theirs in zip(self.buffers, held, strict=True):
            buffer.lerp_(theirs, 1 / self.workers)
        self.staleness[staleness] += 1
        self.clock += 1
        self.fetched_at[worker] += 1  # a worker's own pushes do not age what it trains on

    def fetch(self, worker: int, kind: int) -> list[Tensor]:
        """The tensors as of now, not copied."""
        # An evaluation is no fetch: what the worker trains on stays as old as it is.
        if kind == FETCH:
            self.fetched_at[worker] = self.clock
        return self.tensors

    def state(self) -> dict[str, Any]:
        """All that changes, for a checkpoint."""
        return {
            "tensors": self.tensors,
            "optimizer": self.optimizer.state_dict(),
            "counts": (self.clock, self.fetched_at, self.staleness),
        }

    def load(self, state: dict[str, Any]) -> None:
        for tensor, saved in zip(self.tensors, state["tensors"], strict=True):
            tensor.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.clock, self.fetched_at, self.staleness = state["counts"]


def _restricted(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """An optimizer that has not stepped yet, without the parameters that are not among these."""
    kept = set(parameters)
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p in kept]
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    for parameter in set(optimizer.state) - kept:
        del optimizer.state[parameter]
    return optimizer


class ParameterServer:
    """One shard here, served to the other ranks by a thread; theirs, reached by messages.

    The weights lie on CPUs and the messages go over gloo, also where ranks train on GPUs: NCCL can
    neither receive from whoever sends first nor be used from two threads.

    Attributes:
        served: the rank whose request this shard served, in the order in which it did.

    Args:
        model: the same on every rank; its tensors are divided into a shard a rank, whole.
        staleness_aware: as of `Shard`.
        comm: `deepspeed.comm`, whose messages the ledger counts. It is not imported here, as that takes
            seconds also in processes that only ask for the algorithms' names.
        ledger: takes down the replies that the thread sends under their phase.
        clock: takes down the CPU time of the thread.
        replay: the order in which requests are to be served; None, or beyond its end, as they come.
    """

    def __init__(
        self,
        model: Task,
        staleness_aware: bool,
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
        sizes = [tensor.nbytes for tensor in tensors(model, "weights", "buffers")]
        self.shares = shares(sizes, self.ranks)
        self.bytes = [sum(sizes[i] for i in share) for share in self.shares]
        own = self.shares[self.rank]
        self.shard = Shard(deepcopy(model).cpu(), own, self.ranks, staleness_aware)
        self.comm, self.ledger, self.clock, self.replay = comm, ledger, clock, replay
        self.served: list[int] = []
        self._turn = threading.Condition()  # its lock guards the shard and what follows
        self._waiting: list[tuple[int, int, Tensor]] = []  # received: worker, kind, payload
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Ends when every rank has stopped."""
        for rank in self.others:
            self._request(STOP, rank)
        self._thread.join()

    def push(self, values: list[Tensor]) -> None:
        """Applies `values`, one a tensor of the model, to the shards, each as soon as it is free."""
        sending = []
        for rank in self.others:
            self._request(PUSH, rank)
            if self.shares[rank]:
                packed = pack(values[i] for i in self.shares[rank])
                sending.append(self.comm.isend(packed, rank, self.group, PUSH_TAG))
        with self._own_turn():
            self.shard.push(self.rank, [values[i].cpu() for i in self.shares[self.rank]])
        for work in sending:
            work.wait()

    def fetch(self, into: list[Tensor], kind: int = FETCH) -> None:
        """Overwrites `into`, one for each tensor of the model, with those of all shards, each as of now.

        READ is a fetch to evaluate them.
        """
        receiving = []
        for rank in self.others:
            self._request(kind, rank)
            if self.shares[rank]:
                packed = torch.empty(self.bytes[rank], dtype=torch.uint8)
                work = self.comm.irecv(packed, rank, self.group, FETCH_TAG)
                receiving.append((rank, packed, work))
        with self._own_turn():
            own = self.shard.fetch(self.rank, kind)
            for i, tensor in zip(self.shares[self.rank], own, strict=True):
                into[i].copy_(tensor)
        for rank, packed, work in receiving:
            work.wait()
            unpack(packed, [into[i] for i in self.shares[rank]])

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
            packed = torch.empty(self.bytes[self.rank] if kind == PUSH else 0, dtype=torch.uint8)
            if len(packed):
                self.comm.recv(packed, worker, self.group, PUSH_TAG)
            # Received at once also in a replay, so that its sender can go on; served in its turn.
            with self._turn, self.clock.working():
                self._waiting.append((worker, int(kind), packed))
                self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Serves the requests whose turn has come; the caller holds the shard."""
        while (turn := self._whose_turn_has_come()) is not None:
            worker, kind, packed = self._waiting.pop(turn)
            if kind == PUSH:
                pushed = [torch.empty_like(tensor) for tensor in self.shard.tensors]
                unpack(packed, pushed)
                self.shard.push(worker, pushed)
            elif fetched := self.shard.fetch(worker, kind):
                with self.ledger.during("exchange" if kind == FETCH else "evaluation"):
                    self.comm.send(pack(fetched), worker, self.group, FETCH_TAG)
            self.served.append(worker)
        self._turn.notify_all()

    def _whose_turn_has_come(self) -> int | None:
        """The place of a request among those that wait."""
        served_next = self._next()
        return next(
            (i for i, (worker, *_) in enumerate(self._waiting) if served_next in (worker, None)),
            None,
        )
