"""Starts ranks on this machine, from a fork server, and tells how each of them ended."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Modules that DeepSpeed imports when it makes an engine of ZeRO 1 to 3. It takes seconds in every rank.
LATE_IMPORTS = (
    "torch._inductor",
    "torch._dynamo.convert_frame",
    "deepspeed.runtime.zero.muon.original_muon",
    "deepspeed.runtime.superoffload.superoffload_stage3",
)

# For glibc: keep freed memory. By default, glibc gets every block of 32 MiB or more anew from the kernel.
# Page faults then take half the time of an all-gather of 16 MB. A process reads both variables when it
# starts, so they must be set before the fork server starts.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}

LIFE_S = 1.0  # seconds between two checks whether a rank has used the CPU
WORKED = 0.02  # the part of that time for which a working rank uses the CPU

Message = tuple[int, str, Any]  # the rank, the kind of the message and its value


@dataclass(frozen=True)
class Failure:
    """Why a rank ended without a result."""

    rank: int
    reason: str
    time: float
    details: str = ""
    error: str = ""


@dataclass(frozen=True)
class Order:
    """What the ranks of one machine have to do.

    Attributes:
        environments: the environment variables of each rank, as torchrun sets them.
        target: the function that each rank calls as `target(*arguments, report)`.
        arguments: the first arguments of `target`.
    """

    environments: list[dict[str, str]]
    target: Callable[..., Any]
    arguments: tuple[Any, ...]


def _follow_parent(connection: Connection) -> None:
    """Ends this process as soon as its parent has ended, for whatever reason."""
    try:
        connection.recv()  # the parent sends nothing, so this returns only when its end is closed
    except EOFError:
        os._exit(1)


def _show_life(report: Callable[[str, Any], None]) -> None:
    """Reports to the parent that this process is working, as long as it uses the CPU.

    A setup may take hours without any other report. A rank that waits for others does not use the CPU. If
    all ranks wait, none of them reports.
    """
    before = time.process_time()
    while True:
        time.sleep(LIFE_S)
        spent = time.process_time() - before
        before += spent
        if spent > WORKED * LIFE_S:
            report("alive", None)


def _rank_main(
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    log: Path | None,
    connection: Connection,
    lifeline: Connection,
) -> None:
    """Runs `target(*arguments, report)` in a rank and reports its result or its failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a trial ends
    threading.Thread(target=_follow_parent, args=(lifeline,), daemon=True).start()
    if log is not None:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    rank = int(environment["RANK"])

    lock = threading.Lock()

    def report(kind: str, value: Any) -> None:
        with lock:
            connection.send((rank, kind, value))

    def fail(error: BaseException | None) -> None:
        name = type(error).__name__
        reason = f"raised {name}: {error}".splitlines()[0]
        details = "".join(traceback.format_exception(error))
        report("failure", Failure(rank, reason, time.time(), details, name))

    threading.Thread(target=_show_life, args=(report,), daemon=True).start()
    # Otherwise, a rank that waits for a thread that has raised would wait forever.
    threading.excepthook = lambda raised: fail(raised.exc_value)
    try:
        report("result", target(*arguments, report))
    except BaseException as error:
        fail(error)


def start_fork_server(*modules: str) -> None:
    """Starts the fork server, which imports `modules` once for all ranks while the caller continues.

    If the fork server is already running, nothing happens.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # All ranks iterate over a set of strings in the same order, also in a repetition. Programs such as
    # tox draw a seed for every command, so a seed that is set already is replaced.
    os.environ["PYTHONHASHSEED"] = "0"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*modules, *LATE_IMPORTS])
    forkserver.ensure_running()


class LocalRank:
    """One running rank of this machine.

    Attributes:
        ranks: the ranks whose messages `received` still has to return: this one, until it has ended.
    """

    def __init__(self, order: Order, environment: dict[str, str], log: Path | None) -> None:
        context = multiprocessing.get_context("forkserver")
        rank = int(environment["RANK"])
        self.ranks = {rank}
        self.connection, theirs = context.Pipe(duplex=False)
        end, self.lifeline = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_rank_main,
            args=(order.target, order.arguments, environment, log, theirs, end),
            name=f"rank {rank}",
            daemon=True,
        )
        self.process.start()
        theirs.close()
        end.close()

    def received(self) -> Message:
        """Returns the next message of the rank. If it died, that is a 'failure'."""
        (rank,) = self.ranks
        try:
            message: Message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            message = rank, "failure", self._death(rank)
        if message[1] in ("result", "failure"):
            self.ranks.clear()
        return message

    def _death(self, rank: int) -> Failure:
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            return Failure(rank, f"was killed by {signal.Signals(-code).name}", time.time())
        return Failure(rank, f"exited with status {code} and no result", time.time())

    def close(self) -> None:
        self.process.join()
        self.connection.close()
        self.lifeline.close()


class LocalRanks:
    """The ranks that one order has started on this machine."""

    def __init__(self, order: Order, log: Path | None) -> None:
        self.sources: list[LocalRank] = []
        try:
            with _interrupted_later():  # or an interrupted start could leave a rank
                for environment in order.environments:
                    self.sources.append(LocalRank(order, environment, log))
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Ends all ranks."""
        for source in self.sources:
            source.process.kill()
        for source in self.sources:
            source.close()


class ThisMachine:
    """This machine as a node on which ranks can be started.

    Args:
        interface: the name of the network interface that leads to the other nodes, if there are any.
    """

    def __init__(self, interface: str | None = None) -> None:
        self.interface = interface

    def start(self, order: Order, log: Path | None, store: int) -> LocalRanks:
        """Starts ranks.

        Args:
            order: what they have to do.
            log: the file for their output, or None to leave it where it is.
            store: the port of the rendezvous store on the loopback interface of the parent's machine.
        """
        own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store)}
        environments = [own | environment for environment in order.environments]
        return LocalRanks(Order(environments, order.target, order.arguments), log)


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Delays an interruption by SIGINT or SIGTERM until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda caught, _: came.append(caught)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        # Even if the block failed: a signal to a group of processes ends the fork server first.
        for signal_number in came:
            signal.raise_signal(signal_number)
