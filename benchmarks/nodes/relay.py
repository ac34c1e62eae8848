"""Carries the connections of ranks to the rendezvous store of the parent.

The store knows no secret, so it listens on the loopback interface only. On another node, ranks connect to
a relay on their own loopback interface, which has an authenticated connection to the parent for each.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

CHUNK = 2**16


class Relay:
    """Accepts connections on the loopback interface while the block runs, and carries each elsewhere.

    Attributes:
        port: the port on which it listens.

    Args:
        onward: returns a new connection to the place to which one is carried.
    """

    def __init__(self, onward: Callable[[], socket.socket]) -> None:
        self._onward = onward
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]

    def __enter__(self) -> "Relay":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._listening.accept()
                try:
                    carry(accepted, self._onward())
                except (OSError, EOFError):
                    accepted.close()


def carry(one: socket.socket, other: socket.socket) -> None:
    """Carries bytes between two connections, both ways, until either is closed."""
    for pair in ((one, other), (other, one)):
        threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # ends the other thread
