"""Accepts the connections of other nodes, and keeps strangers out."""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection

from paceline.benchmarks.nodes.joining import REFUSED, accepted, as_socket
from paceline.benchmarks.nodes.relay import carry
from paceline.benchmarks.nodes.remote import RemoteNode

STRANGERS = 64  # connections at a time that have not yet proved that they know the secret


class Welcome:
    """Accepts connections, and passes those on that know the secret.

    Args:
        add: a function that is called with each node that has joined.
        key: the secret.
        command: what a joining node has to be part of.
    """

    def __init__(self, add: Callable[[RemoteNode], None], key: bytes, command: list[str]) -> None:
        self._add, self._key, self._command = add, key, command
        self._strangers: deque[socket.socket] = deque()
        self.closed = False

    def accept(self, listening: socket.socket) -> None:
        """Accepts connections until `listening` is shut down."""
        while True:
            try:
                raw, _ = listening.accept()
            except OSError:
                if self.closed:
                    return
                time.sleep(0.1)  # such as too many open files
                continue
            # The eldest has had the longest time to prove that it knows the secret.
            while len(self._strangers) >= STRANGERS:
                with suppress(OSError, IndexError):
                    self._strangers.popleft().shutdown(socket.SHUT_RDWR)
            self._strangers.append(raw)
            threading.Thread(target=self._greet, args=(raw,), daemon=True).start()

    def _greet(self, raw: socket.socket) -> None:
        try:
            connection = accepted(raw, self._key)
        except (*REFUSED, AuthenticationError):
            return
        finally:
            with suppress(ValueError):
                self._strangers.remove(raw)
            raw.close()
        try:
            self._receive(connection)
        except REFUSED:
            connection.close()

    def _receive(self, connection: Connection) -> None:
        match connection.recv():
            case "node", number, name, interface, command:
                if command != self._command:
                    connection.send(("refuse", "it runs another command"))
                    connection.close()
                    return
                self._add(RemoteNode(number, name, interface, connection))
            case "store", store:
                with connection:
                    carry(as_socket(connection), socket.create_connection(("127.0.0.1", store)))
