"""The training time of a rank, without evaluation, logging and checkpointing."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from paceline.lightning_modules.backend.phases import TRAINING


class Clock:
    """The training time of one rank in seconds, split into phases.

    The phases are `data` (waiting for a batch), `exchange` (exchanges between replicas) and `train` (the
    rest). The ledger counts how much of this time is spent sending. The device is synchronised whenever
    the clock starts or stops, so that the time of queued GPU work is counted where it was caused.

    Attributes:
        seconds: the training time of each phase.
        cpu_seconds: the CPU time of the training thread while the clock runs, and of the blocks of
            `working`. It does not include the communication library's own threads.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(("data", *TRAINING), 0.0)
        self.cpu_seconds = 0.0
        self._phase: str | None = None
        self._since = self._cpu_since = 0.0
        self._lock = threading.Lock()

    @property
    def total(self) -> float:
        """The training time in seconds up to the last call of `enter` or `stop`."""
        return sum(self.seconds.values())

    def enter(self, phase: str) -> None:
        """Adds the time until now to the previous phase, and starts `phase`."""
        if self._phase is None:
            self._synchronise()
            self._since, self._cpu_since = time.perf_counter(), time.thread_time()
        else:
            self._book()
        self._phase = phase

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Counts the block as `phase` and then returns to the previous phase, if the clock runs."""
        before = self._phase
        if before is None:
            yield
            return
        self.enter(phase)
        yield
        self.enter(before)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts the CPU time of the block. It is for a second thread beside the training thread."""
        since = time.thread_time()
        yield
        with self._lock:
            self.cpu_seconds += time.thread_time() - since

    def stop(self) -> None:
        """Adds the time until now to the current phase and stops. A stopped clock is left as it is."""
        if self._phase is None:
            return
        self._synchronise()
        self._book()
        with self._lock:
            self.cpu_seconds += time.thread_time() - self._cpu_since
        self._phase = None

    def state(self) -> tuple[dict[str, float], float]:
        """Returns the times until now, for a checkpoint. The clock must be stopped."""
        return dict(self.seconds), self.cpu_seconds

    def load(self, state: tuple[dict[str, float], float]) -> None:
        """Continues from the times of a checkpoint."""
        self.seconds, self.cpu_seconds = dict(state[0]), state[1]

    def _book(self) -> None:
        now = time.perf_counter()
        assert self._phase is not None
        self.seconds[self._phase] += now - self._since
        self._since = now

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
