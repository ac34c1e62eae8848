"""Authenticated connections between the processes of several nodes.

Both ends prove that they know the secret, by the challenge of `multiprocessing.connection`, before either
reads anything else. Only then are messages unpickled. The connections are not encrypted.
"""

import hashlib
import os
import secrets
import socket
import stat
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

import psutil

from paceline.benchmarks.nodes.launcher import Place
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.home import home

SECRET, PORT = "PACELINE_SECRET", "PACELINE_PORT"
SECRET_FILE = "nodes.secret"  # noqa: S105, its name
PORTS = range(20_000, 32_000)  # below those that Linux gives to clients
HANDSHAKE_S = 5
# A peer that does not answer for so long is gone, although nobody has closed the connection.
SILENT_S = 15
REFUSED = (OSError, EOFError, AssertionError)  # how a connection with a stranger ends


def secret(make: bool, wait_s: float = 0.0) -> bytes:
    """Returns the secret that the nodes of a user share.

    It is `PACELINE_SECRET` if that is set. Else it is in a file under `PACELINE_HOME` that only its owner
    may read. The file is made once and then stays.

    Args:
        make: whether to make the file if it is missing.
        wait_s: how long to wait for another node to make it.

    Raises:
        ConfigError: if there is no secret, or if others can read it.
    """
    if given := os.environ.get(SECRET):
        return given.encode()
    file = home() / SECRET_FILE
    if make:
        _make(file)
    until = time.monotonic() + wait_s
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.2)
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise ConfigError(f"{file} can be read by others; run `chmod 600 {file}`")
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"no secret to join the other nodes with: {file}: {error.strerror}; set {SECRET} to the same"
            " text on all nodes, or PACELINE_HOME to a folder that they share"
        ) from error


def _make(file: Path) -> None:
    """Makes the file with a new secret, whole or not at all, unless it is there."""
    own = file.with_name(f"{file.name}.{os.getpid()}")
    with open(os.open(own, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as opened:
        opened.write(secrets.token_hex(32))
    with suppress(FileExistsError):
        os.link(own, file)
    own.unlink()


def port(place: Place) -> int:
    """Returns the port of the parent: `PACELINE_PORT`, or one that follows from the job.

    Raises:
        ConfigError: if `PACELINE_PORT` is no port.
    """
    text = os.environ.get(PORT)
    if text is None:
        digest = hashlib.sha256(f"{place.address} {place.job}".encode()).digest()
        return PORTS[int.from_bytes(digest[:4]) % len(PORTS)]
    if not text.isdigit() or not 0 < int(text) < 2**16:
        raise ConfigError(
            f"{PORT}={text} is no port; set it to a number from 1 to 65535 on all nodes"
        )
    return int(text)


def join(address: str, number: int, key: bytes) -> Connection:
    """Returns a connection to the parent.

    Raises:
        OSError: if the parent cannot be reached.
        AuthenticationError: if the secrets differ.
    """
    raw = socket.create_connection((address, number), HANDSHAKE_S)
    raw.settimeout(None)
    return _authenticated(raw, key, answer_challenge, deliver_challenge)


def accepted(raw: socket.socket, key: bytes) -> Connection:
    """Returns an accepted socket as a connection, once its other end has proved that it knows the secret.

    Raises:
        OSError, EOFError, AssertionError, AuthenticationError: if it did not.
    """
    return _authenticated(raw, key, deliver_challenge, answer_challenge)


def _authenticated(
    raw: socket.socket, key: bytes, *steps: Callable[[Connection, bytes], None]
) -> Connection:
    raw.settimeout(None)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENT_S // 3 - 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000)
    _set_patience(raw, HANDSHAKE_S)
    connection = Connection(os.dup(raw.fileno()))
    with raw:
        try:
            for step in steps:
                step(connection, key)
        except BaseException:
            connection.close()
            raise
        _set_patience(raw, 0)
    return connection


def _set_patience(raw: socket.socket, seconds: int) -> None:
    """Sets for how long a read or a write may wait, 0 for as long as it takes."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        raw.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))


def as_socket(connection: Connection) -> socket.socket:
    """Returns another handle of the socket under a connection."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def own_address(connection: Connection) -> str:
    """Returns the address of this end of a connection."""
    with as_socket(connection) as raw:
        return str(raw.getsockname()[0])


def shut(connection: Connection) -> None:
    """Shuts a connection down, so that whoever reads from it finds its end."""
    with suppress(OSError), as_socket(connection) as raw:
        raw.shutdown(socket.SHUT_RDWR)


def interface_of(address: str) -> str | None:
    """Returns the name of this machine's network interface that has an address."""
    return next(
        (
            name
            for name, addresses in psutil.net_if_addrs().items()
            for one in addresses
            if one.address == address
        ),
        None,
    )
