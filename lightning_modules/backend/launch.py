"""Starts the ranks of a trial, on one or several nodes, and reports how each rank ended."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from paceline.lightning_modules.backend.local_ranks import Failure, Message, Order, ThisMachine

# This variable sets the seconds without a sign of life after which ranks count as hung. By default, 600.
SILENCE = "PACELINE_HUNG_AFTER_S"


class RankFailed(RuntimeError):
    """A rank died, raised an exception or stopped responding.

    Attributes:
        details: the traceback, if a rank raised an exception. Otherwise, it is empty.
        error: the name of the exception, if a rank raised one. Otherwise, it is empty.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"rank {failure.rank} {failure.reason}")
        self.details, self.error = failure.details, failure.error


class Source(Protocol):
    """Where messages come from: a rank of this machine, or another node.

    Attributes:
        ranks: the ranks whose messages `received` still has to return.
        connection: what it receives them from.
    """

    ranks: set[int]
    connection: Connection

    def received(self) -> Message:
        """Returns the next message. A broken connection is a 'failure'."""


class Started(Protocol):
    """The ranks that one order has started on a node."""

    @property
    def sources(self) -> Sequence[Source]: ...

    def end(self) -> None:
        """Ends all ranks."""


class Node(Protocol):
    """A machine on which ranks can be started.

    Attributes:
        interface: the name of the network interface that leads to the other nodes, if there are any.
    """

    @property
    def interface(self) -> str | None: ...

    def start(self, order: Order, log: Path | None, store: int) -> Started:
        """Starts ranks, see `ThisMachine.start`."""


class Ranks:
    """The running ranks of one trial. Used as a context manager, it ends all ranks with the block.

    Each rank has the same environment variables as under torchrun. Lightning's cluster environment and
    `target` therefore work as they do there. Consecutive ranks are on the same node.

    Args:
        world_size: the number of ranks.
        target: the function that each rank calls as `target(*arguments, report)`. Its return value is
            the result of the rank. `report(kind, value)` sends a message to the parent.
        arguments: the first arguments of `target`.
        log: a file for the output of the ranks.
        nodes: the nodes to start them on, equally many on each. By default, it is this machine.

    Raises:
        ValueError: the ranks cannot be divided among the nodes.
    """

    def __init__(
        self,
        world_size: int,
        target: Callable[..., Any],
        *arguments: Any,
        log: Path | None = None,
        nodes: Sequence[Node] = (ThisMachine(),),
    ) -> None:
        # Imported here, so that the fork server can be started before this process imports torch.
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        each, left = divmod(world_size, len(nodes))
        if left:
            raise ValueError(f"{world_size} ranks cannot be divided among {len(nodes)} nodes")
        # The parent holds the rendezvous store, on a port that the kernel chose. So no other process
        # can take the port between a search for a free port and its use. Given only an address, the
        # store would listen on every interface.
        listening = socket.create_server(("127.0.0.1", 0))
        self._store = TCPStore(
            "127.0.0.1",
            listening.getsockname()[1],
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(minutes=5),
            master_listen_fd=listening.detach(),
        )
        self._started: list[Started] = []
        try:
            for number, node in enumerate(nodes):
                shared = {
                    "WORLD_SIZE": str(world_size),
                    "LOCAL_WORLD_SIZE": str(each),
                    "GROUP_RANK": str(number),
                    "GROUP_WORLD_SIZE": str(len(nodes)),
                    "TORCHELASTIC_RUN_ID": "paceline",
                    "TORCHELASTIC_RESTART_COUNT": "0",
                    "TORCHELASTIC_USE_AGENT_STORE": "True",
                }
                if len(nodes) > 1 and node.interface:
                    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                        shared[variable] = os.environ.get(variable) or node.interface
                environments = [
                    shared | {"RANK": str(number * each + local), "LOCAL_RANK": str(local)}
                    for local in range(each)
                ]
                order = Order(environments, target, arguments)
                self._started.append(node.start(order, log, self._store.port))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for started in self._started:
            started.end()

    def messages(self, silence_s: float | None = None) -> Iterator[Message]:
        """Yields the reports of the ranks as (rank, kind, value) until each rank has sent its 'result'.

        Args:
            silence_s: the seconds that all ranks together may report nothing and use no CPU before the
                trial counts as hung. The default comes from the environment.

        Raises:
            RankFailed: a rank died, raised an exception or hung. If several ranks fail, it names the
                first cause. When one rank dies, the others soon fail, too, because its connections are
                broken.
        """
        if silence_s is None:
            silence_s = float(os.environ.get(SILENCE, 600))
        sources: dict[Any, Source] = {
            source.connection: source for started in self._started for source in started.sources
        }
        failures: list[Failure] = []
        while sources:
            ready = wait(sources, timeout=0.5 if failures else silence_s)
            if not ready and not failures:
                failures.append(
                    Failure(
                        0,
                        f"hung: no rank reported anything or used its CPU for {silence_s:.0f} s,"
                        f" the limit that {SILENCE} sets",
                        time.time(),
                    )
                )
            if not ready or (failures and time.time() - failures[0].time > 5):
                break
            for connection in ready:
                source = sources[connection]
                rank, kind, value = source.received()
                if kind == "failure":
                    failures.append(value)
                elif kind != "alive":
                    yield rank, kind, value
                if not source.ranks:
                    del sources[connection]
        if failures:
            # The time of a death is unknown. If a rank was killed, that counts as the first cause.
            raise RankFailed(
                min(failures, key=lambda failure: (failure.details != "", failure.time))
            )


@contextmanager
def interruptible() -> Iterator[None]:
    """Turns SIGTERM into KeyboardInterrupt, so that a terminated parent also cleans up."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
