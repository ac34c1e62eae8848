"""Another node, as the parent sees it through the connection to its agent."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from paceline.benchmarks.nodes.joining import REFUSED, SILENT_S, shut
from paceline.lightning_modules.backend.local_ranks import Failure, Message, Order


class NodeLost(RuntimeError):
    """The connection to a node is broken. The message names the node."""


class RemoteNode:
    """Another node, through the connection to its agent.

    Attributes:
        number: the number of the node.
        name: its host name.
        interface: its network interface that leads to the parent.
        lost: whether the connection is broken.
        admitted: whether it was checked that the node can be used.
    """

    def __init__(self, number: int, name: str, interface: str, connection: Connection) -> None:
        self.number, self.name, self.interface = number, name, interface
        self.connection, self.lost, self.admitted = connection, False, False

    def __str__(self) -> str:
        return f"node {self.number} ({self.name})"

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function on the node and returns its result.

        Raises:
            NodeLost: if the connection is broken. Otherwise, whatever the function raises.
        """
        self.send(("call", function, arguments))
        returned, value = self.receive()
        if returned:
            return value
        raise value

    def start(self, order: Order, log: Path | None, store: int) -> "RemoteRanks":
        self.send(("start", order, store))
        return RemoteRanks(self, order, log)

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError as error:
            raise self._found_lost() from error

    def receive(self, wait_s: float | None = None) -> Any:
        """Returns the next message of the agent.

        Args:
            wait_s: how many seconds it may take. By default, any number.

        Raises:
            NodeLost: if the connection is broken, or if there is no message in time.
        """
        try:
            if self.connection.poll(wait_s):
                return self.connection.recv()
        except REFUSED as error:
            raise self._found_lost() from error
        raise self._found_lost()

    def notice_loss(self) -> None:
        """Finds out whether an idle node is lost. It sends nothing unless it was told to."""
        if self.connection.poll(0):
            self._found_lost()

    def refuse(self, reason: str) -> None:
        """Sends the node away."""
        with suppress(NodeLost):
            self.send(("refuse", reason))
        self._found_lost()

    def _found_lost(self) -> NodeLost:
        self.lost = True
        shut(self.connection)
        return NodeLost(f"the connection to {self} is broken")


class RemoteRanks:
    """The ranks that one order has started on another node.

    Attributes:
        ranks: the ranks that have not ended.
    """

    def __init__(self, node: RemoteNode, order: Order, log: Path | None) -> None:
        self.node, self.log, self.connection = node, log, node.connection
        self.ranks = {int(environment["RANK"]) for environment in order.environments}
        self.sources = [self]

    def received(self) -> Message:
        """Returns the next message of one of the ranks. If the node is lost, that is a 'failure'."""
        try:
            rank, kind, value = self.node.receive()
        except NodeLost:
            rank, kind = min(self.ranks), "failure"
            reason = f"was lost with its node, {self.node}"
            value = Failure(rank, reason, time.time(), error=NodeLost.__name__)
            self.ranks.clear()
        else:
            if kind == "failure":
                value = replace(value, time=time.time())  # the clocks of two nodes may differ
            if kind in ("result", "failure"):
                self.ranks.discard(rank)
        return rank, kind, value

    def end(self) -> None:
        """Ends all ranks and appends their output to the log."""
        try:
            self.node.send("end")
            kind = ""
            while kind != "ended":
                _, kind, output = self.node.receive(SILENT_S)
        except NodeLost:
            return
        if self.log is not None and output:
            with self.log.open("a") as file:
                file.write(f"--- {self.node}\n{output}")
