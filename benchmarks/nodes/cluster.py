"""The nodes of a command, as its parent sees them."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from paceline.benchmarks.nodes.joining import (
    PORT,
    interface_of,
    own_address,
    port,
    secret,
    shut,
)
from paceline.benchmarks.nodes.launcher import Place
from paceline.benchmarks.nodes.remote import NodeLost, RemoteNode
from paceline.benchmarks.nodes.welcome import Welcome
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.lightning_modules.backend.launch import Node
from paceline.lightning_modules.backend.local_ranks import ThisMachine


class Cluster:
    """The nodes that are there. Without other nodes, it is this machine alone.

    Attributes:
        expected: the number of nodes that the launcher has started.
        wait_s: how long to wait for a node that is not there.
        group: the number of the group of nodes, if they are divided. This machine is in the first one.
    """

    def __init__(self, expected: int = 1, wait_s: float = 0.0, group: int = 0) -> None:
        self.expected, self.wait_s, self.group = expected, wait_s, group
        self._this = ThisMachine()
        self._others: dict[int, RemoteNode] = {}
        self._joined = threading.Condition()
        self._given_up = False  # whether waiting was in vain, and no node has joined since
        self._check: Callable[[RemoteNode], None] = lambda node: None

    @property
    def others(self) -> list[RemoteNode]:
        """The other nodes that are there, in the order of their numbers."""
        with self._joined:
            return [node for _, node in sorted(self._others.items()) if not node.lost]

    @property
    def nodes(self) -> list[Node]:
        """All nodes that are there. This machine is the first, if it is one of them."""
        return [*([] if self.group else [self._this]), *self.others]

    def add(self, node: RemoteNode) -> None:
        """Adds a node that has joined. It replaces an earlier one of its number."""
        with self._joined:
            if earlier := self._others.get(node.number):
                shut(earlier.connection)  # its agent has lost it, so the parent will, too
            self._others[node.number] = node
            self._given_up = False
            self._this.interface = interface_of(own_address(node.connection))
            self._joined.notify_all()

    def wait_for(self, count: int) -> bool:
        """Waits until so many nodes are there, and returns whether they are."""
        with self._joined:
            return self._joined.wait_for(lambda: len(self.nodes) >= count, self.wait_s)

    def admit(self, check: Callable[[RemoteNode], None]) -> None:
        """Checks the other nodes that are there now, and later those that join, before they are used.

        Args:
            check: raises `ValueError` if a node cannot be used.
        """
        self._check = check
        for node in self.others:
            check(node)
            node.admitted = True

    def usable(self, count: int) -> Sequence[Node]:
        """Returns so many nodes to start ranks on. It waits for those that are not there.

        Raises:
            NodeLost: if there are not so many in time. The next call then does not wait, unless a node
                has joined meanwhile.
        """
        until = time.monotonic() + (0.0 if self._given_up else self.wait_s)
        while True:
            for node in self.others:
                node.notice_loss()
                if not (node.lost or node.admitted):
                    self._admit_late(node)
            if len(self.nodes) >= count:
                return self.nodes[:count]
            if time.monotonic() > until:
                self._given_up = True
                there = f"{len(self.nodes)} of {self.expected} are there"
                raise NodeLost(f"needs {count} nodes, and {there}")
            time.sleep(0.2)

    def _admit_late(self, node: RemoteNode) -> None:
        try:
            self._check(node)
        except ValueError as error:
            node.refuse(str(error))
        except NodeLost:
            return
        node.admitted = True

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls a function on all other nodes. A node that is lost meanwhile is left alone."""
        for node in self.others:
            with suppress(NodeLost):
                node.call(function, *arguments)


_current = Cluster()


def current() -> Cluster:
    """Returns the nodes of this process."""
    return _current


@contextmanager
def gathered(place: Place, command: list[str], wait_s: float, group: int = 0) -> Iterator[Cluster]:
    """Lets the other nodes join while the block runs. Only the parent calls this.

    Args:
        place: the place of this process.
        command: the arguments of the command. A node with other ones is refused.
        wait_s: how long to wait for a node that is not there.
        group: the number of the group of nodes, if they are divided.

    Raises:
        ConfigError: if the port is in use, or if the secret cannot be used.
    """
    global _current
    key = secret(make=True)
    cluster = Cluster(place.nodes, wait_s, group)
    listening = _listening(place)
    welcome = Welcome(cluster.add, key, [place.job, *command])
    threading.Thread(target=welcome.accept, args=(listening,), daemon=True).start()
    _current = cluster
    try:
        yield cluster
    finally:
        _current = Cluster()
        welcome.closed = True
        listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        listening.close()
        for node in cluster.others:
            with suppress(NodeLost):
                node.send("leave")
            node.connection.close()


def _listening(place: Place) -> socket.socket:
    """Returns a socket that listens on the address by which the other nodes know this one."""
    number = port(place)
    try:
        address = socket.gethostbyname(place.address)
        if address.startswith("127."):
            address = ""  # a name of this machine that does not say which of its addresses is meant
        return socket.create_server((address, number), backlog=1024)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {place.address}, port {number}, for the other nodes: {error.strerror};"
            f" {place.launcher} has to name this machine as node 0, and {PORT} sets another port on all"
            " nodes"
        ) from error
