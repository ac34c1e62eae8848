"""A parameter server. Each rank of the trial holds one of its shards."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from paceline.lightning_modules.backend.clock import Clock
from paceline.lightning_modules.backend.ledger import Ledger
from paceline.lightning_modules.backend.schedule import Schedule
from paceline.lightning_modules.backend.shard import FETCH, PUSH, READ, STOP, Shard, shares
from paceline.lightning_modules.backend.state import pack, tensors, unpack, unpacked
from paceline.lightning_modules.backend.task import Task

# The tags of the messages. gloo matches messages by tag, in any order.
REQUEST_TAG, REPLY_TAG, RELEASE_TAG = range(1, 4)
# A request begins with its kind, in as many bytes as keep the tensors behind it aligned. gloo receives a
# message into any tensor that is at least as long.
KIND_BYTES = 8
# A receive that times out closes the connection permanently, so no receive may time out. The parent
# process detects ranks that hang.
TIMEOUT = timedelta(days=7)


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
            self.comm.send(torch.tensor(STOP).view(1), rank, self.group, REQUEST_TAG)
        self._thread.join()

    def request(
        self, kind: int, pushed: Sequence[Tensor] = (), fetched: Sequence[Tensor] = ()
    ) -> None:
        """Sends one message to each shard, and receives one from it if the request asks for tensors.

        Each shard serves the request as soon as it is free. A push and a fetch in one request are served
        without any other request between them.

        Args:
            kind: PUSH, FETCH, or both (PUSH | FETCH). READ is a fetch for an evaluation.
            pushed: what is pushed, one tensor for each tensor of the model.
            fetched: the tensors that are overwritten with those of the shards.
        """
        sending, receiving = [], []
        for rank in self.others:
            share = self.shares[rank]
            if share and kind & (FETCH | READ):
                packed = torch.empty(self.bytes[rank], dtype=torch.uint8)
                work = self.comm.irecv(packed, rank, self.group, REPLY_TAG)
                receiving.append((work, packed, [fetched[i] for i in share]))
            sent = pack([torch.tensor(kind), *(pushed[i] for i in share if kind & PUSH)])
            sending.append(self.comm.isend(sent, rank, self.group, REQUEST_TAG))
        own = self.shares[self.rank]
        with self._own_turn():
            found = self.shard.serve(self.rank, kind, [pushed[i].cpu() for i in own if kind & PUSH])
            for i, tensor in zip(own if found else [], found, strict=True):
                fetched[i].copy_(tensor)
        for work, packed, into in receiving:
            work.wait()
            unpack(packed, into)
        for work in sending:
            work.wait()

    def release(self) -> None:
        """Lets the ranks continue that wait for this rank."""
        for rank in self.others:
            self.comm.send(torch.zeros(1), rank, self.group, RELEASE_TAG)

    def wait_for_release(self) -> None:
        """Waits until rank 0 releases this rank."""
        self.comm.recv(torch.empty(1), 0, self.group, RELEASE_TAG)

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
            message = torch.empty(KIND_BYTES + self.bytes[self.rank], dtype=torch.uint8)
            worker = self.comm.recv(message, None, self.group, REQUEST_TAG)
            kind = int(message[:KIND_BYTES].view(torch.int64))
            if kind == STOP:
                running -= 1
                continue
            # Even in a replay, a request is received at once, so that its sender can continue. It is
            # served when its turn comes.
            with self._turn, self.clock.working():
                self._waiting.append((worker, kind, message[KIND_BYTES:]))
                self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Serves the requests whose turn has come. The caller must hold the shard."""
        while (turn := self._whose_turn_has_come()) is not None:
            worker, kind, packed = self._waiting.pop(turn)
            pushed = unpacked(packed, self.shard.tensors) if kind & PUSH else []
            if found := self.shard.serve(worker, kind, pushed):
                with self.ledger.during("evaluation" if kind == READ else "exchange"):
                    self.comm.send(pack(found), worker, self.group, REPLY_TAG)
            self.served.append(worker)
        self._turn.notify_all()

    def _whose_turn_has_come(self) -> int | None:
        """Returns the place of the next request among the waiting ones, or None."""
        served_next = self._next()
        return next(
            (i for i, (worker, *_) in enumerate(self._waiting) if served_next in (worker, None)),
            None,
        )
