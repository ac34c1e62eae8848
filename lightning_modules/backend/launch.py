"""Starts the ranks of a trial from a fork server and reports how each rank ended."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
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


# This variable sets the seconds without a sign of life after which ranks count as hung. By default, 600.
SILENCE = "PACELINE_HUNG_AFTER_S"
LIFE_S = 1.0  # seconds between two checks whether a rank has used the CPU
WORKED = 0.02  # the part of that time for which a working rank uses the CPU


@dataclass(frozen=True)
class Failure:
    """Why a rank ended without a result."""

    rank: int
    reason: str
    time: float
    details: str = ""
    error: str = ""


class RankFailed(RuntimeError):
    """A rank died, raised an exception or stopped responding.

    Attributes:
        details: the traceback, if a rank raised an exception. Otherwise, it is empty.
        error: the name of the exception, if a rank raised one. Otherwise, it is empty.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"rank {failure.rank} {failure.reason}")
        self.details, self.error = failure.details, failure.error


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
            connection.send((kind, value))

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


class Ranks:
    """The running ranks of one trial. Used as a context manager, it ends all ranks with the block.

    Each rank has the same environment variables as under torchrun. Lightning's cluster environments and
    `target` therefore work as they do there.

    Args:
        world_size: the number of ranks.
        target: the function that each rank calls as `target(*arguments, report)`. Its return value is
            the result of the rank. `report(kind, value)` sends a message to the parent.
        arguments: the first arguments of `target`.
        log: a file for the output of the ranks.
    """

    def __init__(
        self,
        world_size: int,
        target: Callable[..., Any],
        *arguments: Any,
        log: Path | None = None,
    ) -> None:
        # Imported here, so that the fork server can be started before this process imports torch.
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # The parent holds the rendezvous store, on a port that the kernel chose. So no other process
        # can take the port between a search for a free port and its use.
        self._store = TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5)
        )
        context = multiprocessing.get_context("forkserver")
        self._connections: list[Connection] = []
        self._lifelines: list[Connection] = []
        self.processes: list[Any] = []
        environment = {
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_RUN_ID": "paceline",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        try:
            with _interrupted_later():  # or an interrupted start could leave a rank
                for rank in range(world_size):
                    own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                    ours, theirs = context.Pipe(duplex=False)
                    end, lifeline = context.Pipe(duplex=False)
                    process = context.Process(
                        target=_rank_main,
                        args=(target, arguments, own, log, theirs, end),
                        name=f"rank {rank}",
                        daemon=True,
                    )
                    process.start()
                    theirs.close()
                    end.close()
                    self._connections.append(ours)
                    self._lifelines.append(lifeline)
                    self.processes.append(process)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for connection in [*self._connections, *self._lifelines]:
            connection.close()

    def messages(self, silence_s: float | None = None) -> Iterator[tuple[int, str, Any]]:
        """Yields the reports of the ranks as (rank, kind, value) until each rank has sent its 'result'.

        Args:
            silence_s: the seconds that all ranks together may report nothing and use no CPU before the
                trial counts as hung. The default comes from the environment.

        Raises:
            RankFailed: a rank died, raised an exception or hung. If several ranks fail, it names the
                first cause. When one rank dies, the others soon fail, too, because its connections are
                broken.
        """
        if silence_s is None:
            silence_s = float(os.environ.get(SILENCE, 600))
        open_connections = dict(enumerate(self._connections))
        failures: list[Failure] = []
        while open_connections:
            ready = wait(open_connections.values(), timeout=0.5 if failures else silence_s)
            if not ready and not failures:
                failures.append(
                    Failure(
                        0,
                        f"hung: no rank reported anything or used its CPU for {silence_s:.0f} s,"
                        f" the limit that {SILENCE} sets",
                        time.time(),
                    )
                )
            if not ready or (failures and time.time() - failures[0].time > 5):
                break
            for rank, connection in list(open_connections.items()):
                if connection not in ready:
                    continue
                try:
                    kind, value = connection.recv()
                except (EOFError, ConnectionResetError):
                    failures.append(self._death(rank))
                    kind = "failure"
                else:
                    if kind == "failure":
                        failures.append(value)
                    elif kind != "alive":
                        yield rank, kind, value
                if kind in ("result", "failure"):
                    del open_connections[rank]
        if failures:
            # The time of a death is unknown. If a rank was killed, that counts as the first cause.
            raise RankFailed(
                min(failures, key=lambda failure: (failure.details != "", failure.time))
            )

    def _death(self, rank: int) -> Failure:
        process = self.processes[rank]
        process.join(5)
        code = process.exitcode
        if code is not None and code < 0:
            return Failure(rank, f"was killed by {signal.Signals(-code).name}", time.time())
        return Failure(rank, f"exited with status {code} and no result", time.time())


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


@contextmanager
def interruptible() -> Iterator[None]:
    """Turns SIGTERM into KeyboardInterrupt, so that a terminated parent also cleans up."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
