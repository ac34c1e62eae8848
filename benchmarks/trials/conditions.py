"""The conditions under which a trial was timed: when it ran, and what else the machine did."""

import os
import time
from datetime import UTC, datetime
from typing import Any

import psutil


class Conditions:
    """Observes the machine from the moment that it is created."""

    def __init__(self) -> None:
        self.began, self._since = datetime.now(UTC), time.perf_counter()
        self._busy, self._own = _busy_seconds(), time.process_time()

    def facts(self, ranks_seconds: float) -> dict[str, Any]:
        """Returns what was observed.

        Args:
            ranks_seconds: the CPU seconds of the ranks on this machine since they were started.

        Returns:
            A dictionary with `began` (ISO 8601, UTC), `seconds`, `others_cores` (the mean number of
            cores, among those that this process may use, on which other programs ran) and `clock_mhz`
            (the clock frequency of the cores at the end, or None if it is not known).
        """
        seconds = time.perf_counter() - self._since
        own = time.process_time() - self._own + ranks_seconds
        others = max(0.0, _busy_seconds() - self._busy - own) / seconds
        frequency = psutil.cpu_freq()
        return {
            "began": self.began.isoformat(timespec="seconds"),
            "seconds": seconds,
            "others_cores": others,
            "clock_mhz": frequency and frequency.current,
        }


def _busy_seconds() -> float:
    """Returns the seconds that the cores of this process have worked, for any program, since the boot."""
    each, own = psutil.cpu_times(percpu=True), os.sched_getaffinity(0)
    return sum(
        core.user + core.nice + core.system + core.irq + core.softirq + core.steal
        for number, core in enumerate(each)
        if number in own
    )
