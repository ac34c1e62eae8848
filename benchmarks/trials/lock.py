"""Reserves this machine for one benchmark at a time."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from paceline.benchmarks.trials.display import Display

POLL_S = 0.2  # seconds between two checks whether the machine is free


@contextmanager
def machine(display: Display) -> Iterator[None]:
    """Reserves this machine for one benchmark, because two at once would distort each other's times.

    The lock is the name of a socket in the kernel. It needs no file, holds for all users and ends with
    its process. If a machine is divided, for example by cpusets, set `PACELINE_MACHINE` to a different
    name in each part.
    """
    name = f"\0paceline/{os.environ.get('PACELINE_MACHINE', '')}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        waiting = False
        while not _bound(lock, name):
            if not waiting:
                display.note("another benchmark is running on this machine; waiting for it to end")
            waiting = True
            time.sleep(POLL_S)
        yield


def _bound(lock: socket.socket, name: str) -> bool:
    try:
        lock.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
