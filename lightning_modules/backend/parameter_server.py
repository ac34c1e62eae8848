"""A parameter server. Each rank of the trial holds one of its shards."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from paceline.lightning_modules.backend.clock import Clock
from paceline.lightning_modules.backend.ledger import Ledger
from paceline.lightning_modules.backend.schedule import Schedule
from paceline.lightning_modules.backend.state import pack, tensors, trained, unpack
from paceline.lightning_modules.backend.task import Task

# The kinds of requests, and the tags of the messages. gloo matches messages by tag, in any order.
PUSH, FETCH, READ, STOP = range(4)
REQUEST_TAG, PUSH_TAG, FETCH_TAG, RELEASE_TAG = range(1, 5)
REQUEST_BYTES = 8
# A receive that times out closes the connection permanently, so no receive may time out. The parent
# process detects ranks that hang.
TIMEOUT = timedelta(days=7)


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

    def push(self, worker: int, pushed: list[Tensor]) -> None:
        """Applies a gradient of each parameter and the worker's values of each buffer."""
        staleness = self.clock - self.fetched_at[worker]
        if self.staleness_aware:
            self.schedule.scale(1 / max(1, staleness))
        gradients, held = pushed[: len(self.parameters)], pushed[len(self.parameters) :]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        for buffer, theirs in zip(self.buffers, held, strict=True):
            buffer.lerp_(theirs, 1 / self.workers)
        self.staleness[staleness] += 1
        self.clock += 1
        self.schedule.advance(self.clock * self.n_push // self.workers)
        self.fetched_at[worker] += 1  # a worker's own pushes do not count as staleness

    def fetch(self, worker: int, kind: int) -> list[Tensor]:
        """Returns the current tensors, without a copy."""
        # An evaluation is not a fetch. The weights that the worker trains on do not change.
        if kind == FETCH:
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


class ParameterServer:
    """The parameter server as one rank sees it.

    This rank holds one shard, and a thread serves it to the other ranks. It reaches their shards by
    messages. The weights are on CPUs and the messages use gloo, even if the ranks train on GPUs. NCCL
    cannot receive from the first rank that sends, and it cannot be used from two threads.

    Attributes:
        served: the ranks whose requests this shard has served, in the order of service.

    Args:
        model: the model, the same on every rank. Its whole tensors are divided into one shard per rank.
        scheduled: returns the optimizer of a model with its schedule.
        n_push: the number of steps of a worker that a push stands for.
        staleness_aware: if True, the learning rate of a push is divided by its staleness.
        comm: the module `deepspeed.comm`, whose messages the ledger counts. It is not imported here,
            because that would take seconds in processes that only ask for the algorithms' names.
        ledger: the ledger that counts the replies of the thread under their phase.
        clock: the clock that counts the CPU time of the thread.
        replay: the order in which to serve requests. With None, or after its end, requests are served
            as they arrive.
    """

    def __init__(
        self,
        model: Task,
        scheduled: Callable[[Task], Schedule],
        n_push: int,
        staleness_aware: bool,
        comm: Any,
        ledger: Ledger,
        clock: Clock,
        replay: list[int] | None = None,
    ) -> None:
        # A separate group, because gloo lets two threads use two groups at once. This call is collective.
        self.group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)
        self.rank = torch.distributed.get_rank()
        self.ranks = torch.distributed.get_world_size()
        self.others = [rank for rank in range(self.ranks) if rank != self.rank]
        sizes = [tensor.nbytes for tensor in tensors(model, "weights", "buffers")]
        self.shares = shares(sizes, self.ranks)
        self.bytes = [sum(sizes[i] for i in share) for share in self.shares]
        own = self.shares[self.rank]
        copied = deepcopy(model).cpu()
        self.shard = Shard(copied, own, self.ranks, scheduled, n_push, staleness_aware)
        self.comm, self.ledger, self.clock, self.replay = comm, ledger, clock, replay
        self.served: list[int] = []
        self._turn = threading.Condition()  # its lock guards the shard and the attributes below
        self._waiting: list[tuple[int, int, Tensor]] = []  # received: worker, kind, payload
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Starts to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stops this rank's requests and waits until every rank has stopped."""
        for rank in self.others:
            self._request(STOP, rank)
        self._thread.join()

    def push(self, values: list[Tensor]) -> None:
        """Pushes `values` to the shards. Each shard applies its part as soon as it is free.

        Args:
            values: one tensor for each tensor of the model.
        """
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
        """Overwrites `into` with the current tensors of all shards.

        Args:
            into: one tensor for each tensor of the model.
            kind: FETCH for training or READ for evaluation.
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
        """Lets the ranks continue that wait for this rank."""
        for rank in self.others:
            self.comm.send(torch.zeros(1), rank, self.group, RELEASE_TAG)

    def wait_for_release(self) -> None:
        """Waits until rank 0 releases this rank."""
        self.comm.recv(torch.empty(1), 0, self.group, RELEASE_TAG)

    def _request(self, kind: int, rank: int) -> None:
        self.comm.send(torch.tensor([kind]), rank, self.group, REQUEST_TAG)

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """Holds the shard for this rank. In a replay, it first waits for this rank's turn."""
        with self._turn:
            self._turn.wait_for(lambda: self._next() in (self.rank, None))
            yield
            self.served.append(self.rank)
            self._serve_waiting()

    def _next(self) -> int | None:
        """Returns the rank whose turn it is, or None if any rank may be next."""
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
            # Even in a replay, a request is received at once, so that its sender can continue. It is
            # served when its turn comes.
            with self._turn, self.clock.working():
                self._waiting.append((worker, int(kind), packed))
                self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Serves the requests whose turn has come. The caller must hold the shard."""
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
        """Returns the place of the next request among the waiting ones, or None."""
        served_next = self._next()
        return next(
            (i for i, (worker, *_) in enumerate(self._waiting) if served_next in (worker, None)),
            None,
        )
