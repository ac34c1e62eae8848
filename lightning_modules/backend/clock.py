"""Training time, with evaluation, logging and checkpointing off it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from paceline.lightning_modules.backend.phases import TRAINING


class Clock:
    """The training time of one rank in seconds, split into phases.

    The device is synchronised whenever the clock starts or stops, so that work still queued on a GPU
    is counted where it was caused. Phases: `data` (waiting for a batch), `exchange` (what replicas tell
    each other) and `train` (the rest). What of it is spent sending is in the ledger.

    Attributes:
        seconds: training time by phase.
        cpu_seconds: CPU time of the thread that trains, while the clock ran, and of those `working`. What
            the communication library's own threads use is not in it.
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
        """Seconds of training up to the last call of `enter` or `stop`."""
        return sum(self.seconds.values())

    def enter(self, phase: str) -> None:
        """Books the time until now under the phase before, and starts `phase`."""
        if self._phase is None:
            self._synchronise()
            self._since, self._cpu_since = time.perf_counter(), time.thread_time()
        else:
            self._book()
        self._phase = phase

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Books the block under `phase` and goes on with the phase before, if the clock runs."""
        before = self._phase
        if before is None:
            yield
            return
        self.enter(phase)
        yield
        self.enter(before)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Books the CPU time of the block, in a thread beside the one that trains."""
        since = time.thread_time()
        yield
        with self._lock:
            self.cpu_seconds += time.thread_time() - since

    def stop(self) -> None:
        """Books the time until now and stops; where the clock stands already, nothing happens."""
        if self._phase is None:
            return
        self._synchronise()
        self._book()
        with self._lock:
            self.cpu_seconds += time.thread_time() - self._cpu_since
        self._phase = None

    def _book(self) -> None:
        now = time.perf_counter()
        assert self._phase is not None
        self.seconds[self._phase] += now - self._since
        self._since = now

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
