"""Functions in processes of their own, and which ranks are running."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function returns in `count` fresh processes at once."""
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        return [f.result(60) for f in [pool.submit(function, *arguments) for _ in range(count)]]


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
