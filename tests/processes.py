"""Functions in processes of their own, which processes and ranks are running, and waiting for it."""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function returns in `count` fresh processes at once."""
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        return [f.result(60) for f in [pool.submit(function, *arguments) for _ in range(count)]]


def until(happened: Callable[[], bool], timeout_s: float = 60) -> None:
    """Waits until something has happened."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it has not happened in time"
        time.sleep(0.02)


def running(pids: Iterable[int]) -> list[int]:
    """Those processes that have not ended, whether or not a parent knows of their end."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def ranks_alive() -> list[psutil.Process]:
    """The running ranks that this process started: the children of its fork server."""
    return [process for process in psutil.Process().children(recursive=True) if _is_rank(process)]


def _is_rank(process: psutil.Process) -> bool:
    try:
        return (
            process.ppid() != psutil.Process().pid
            and process.status() != psutil.STATUS_ZOMBIE
            and "multiprocessing.forkserver" in " ".join(process.cmdline())
        )
    except psutil.NoSuchProcess:
        return False  # it has ended meanwhile
