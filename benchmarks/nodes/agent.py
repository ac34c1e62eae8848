"""The process of every node but the first: it starts ranks there when the parent says so."""

import socket
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from paceline.benchmarks.nodes.joining import (
    PORT,
    REFUSED,
    SECRET,
    as_socket,
    interface_of,
    join,
    own_address,
    port,
    secret,
)
from paceline.benchmarks.nodes.launcher import Place
from paceline.benchmarks.nodes.relay import Relay
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.lightning_modules.backend.local_ranks import Failure, LocalRank, Order, ThisMachine

LOG_LIMIT = 20_000  # characters of the ranks' output that are sent to the parent
RETRY_S = 0.3


def serve(place: Place, command: list[str], wait_s: float) -> int:
    """Serves the parent until it has no more work.

    Args:
        place: the place of this process.
        command: the arguments of the command, which the parent compares with its own.
        wait_s: how long to try to reach the parent, at the start and if the connection is lost.

    Returns:
        The exit status: 0, or 1 if the parent could not be reached.

    Raises:
        ConfigError: if the parent has another secret, or none can be found.
    """
    key = secret(make=False, wait_s=wait_s)
    number = port(place)
    name = f"node {place.node} ({socket.gethostname()})"
    until = time.monotonic() + wait_s
    while True:
        try:
            connection = join(place.address, number, key)
            interface = interface_of(own_address(connection))
            connection.send(
                ("node", place.node, socket.gethostname(), interface, [place.job, *command])
            )
        except AuthenticationError as error:
            raise ConfigError(
                f"{name}: the parent at {place.address} has another secret; set {SECRET} to the same text"
                " on all nodes"
            ) from error
        except REFUSED as error:
            if time.monotonic() > until:
                print(
                    f"{name}: cannot reach the parent at {place.address}, port {number}: {error}; start"
                    f" it on node 0, or set {PORT} to an open port on all nodes",
                    flush=True,
                )
                return 1
            time.sleep(RETRY_S)
            continue
        print(f"{name}: joined {place.address}", flush=True)
        with connection:
            if Agent(connection, (place.address, number, key)).obeyed():
                return 0
        print(f"{name}: lost the parent", flush=True)
        until = time.monotonic() + wait_s


class Agent:
    """One connection of an agent to its parent.

    Args:
        connection: the connection.
        parent: the arguments of `join` for further connections.
    """

    def __init__(self, connection: Connection, parent: tuple[str, int, bytes]) -> None:
        self.connection, self.parent = connection, parent

    def obeyed(self) -> bool:
        """Does what the parent says. Returns True when it has said to leave, False if it is lost."""
        try:
            while True:
                match self.connection.recv():
                    case "call", function, arguments:
                        self.connection.send(_called(function, arguments))
                    case "start", order, store:
                        self._run(order, store)
                    case "refuse", reason:
                        print(f"refused by the parent: {reason}", flush=True)
                        return True
                    case "leave":
                        return True
        except REFUSED:
            return False
        except (AttributeError, ImportError) as error:  # of a class or a function in a message
            print(f"the code here differs from that of the parent: {error}", flush=True)
            return True

    def _run(self, order: Order, store: int) -> None:
        """Runs ranks and forwards their messages until the parent says to end them."""
        first = int(order.environments[0]["RANK"])

        def onward() -> socket.socket:
            with join(*self.parent) as connection:
                connection.send(("store", store))
                return as_socket(connection)

        with TemporaryDirectory() as folder, Relay(onward) as relay:
            log = Path(folder) / "ranks.log"
            try:
                started = ThisMachine().start(order, log, relay.port)
            except Exception as error:  # such as a class that this node does not have
                reason = f"could not be started: {type(error).__name__}: {error}".splitlines()[0]
                self.connection.send((first, "failure", Failure(first, reason, time.time())))
                while self.connection.recv() != "end":
                    pass
            else:
                try:
                    self._forward(started.sources)
                finally:
                    started.end()
            output = log.read_text(errors="replace")[-LOG_LIMIT:] if log.exists() else ""
        self.connection.send((first, "ended", output))

    def _forward(self, sources: list[LocalRank]) -> None:
        running: dict[Any, LocalRank] = {source.connection: source for source in sources}
        while True:
            for ready in wait([self.connection, *running]):
                if ready is self.connection:
                    if self.connection.recv() == "end":
                        return
                    continue
                source = running[ready]
                self.connection.send(source.received())
                if not source.ranks:
                    del running[ready]


def _called(function: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """Returns (True, the result) of a function, or (False, the error that it raised)."""
    try:
        return True, function(*arguments)
    except Exception as error:
        # Another error may be of a class that the parent does not have.
        ours = type(error).__module__.startswith("paceline.")
        return False, error if ours else RuntimeError(f"{type(error).__name__}: {error}")
