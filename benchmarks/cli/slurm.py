"""Follows the jobs of SLURM by `squeue`."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from paceline.benchmarks.trials.display import SAID_EVERY_S, console

ENDED = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED"),
)
TAIL = 20  # lines of a failed job's log
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0  # between two questions to SLURM


def squeue(*options: str) -> "subprocess.CompletedProcess[str]":
    command = ["squeue", "--noheader", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def follow(job_id: str, log: Callable[[str], Path]) -> bool:
    """Shows what happens to a job, or to the jobs of an array, until they have ended.

    Args:
        job_id: the id of the job or of the array.
        log: returns the file of the log of a job, given its id.

    Returns:
        Whether all have completed.
    """
    jobs: dict[str, _Job] = {}
    pause, answered = SHORTEST_PAUSE_S, True
    while True:
        asked = squeue(f"--jobs={job_id}", "--array", "--states=all", "--format=%i|%T|%R")
        if "Invalid job id" in asked.stderr:
            console.print(
                f"SLURM does not know job {job_id} any more; its logs: {log(job_id).parent}"
            )
            return False
        if asked.returncode and answered:
            console.print(f"SLURM does not answer, waiting: {last_line(asked.stderr)}")
        answered = asked.returncode == 0
        for number, state, where in _rows(asked.stdout):
            job = jobs.setdefault(number, _Job(number, log(number)))
            if job.tell(state, where):
                pause = SHORTEST_PAUSE_S
        if jobs and all(job.state in ENDED for job in jobs.values()):
            return all(job.state == "COMPLETED" for job in jobs.values())
        time.sleep(pause)
        pause = min(LONGEST_PAUSE_S, 1.5 * pause)


def _rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if len(row := line.split("|", 2)) == 3:
            yield row


class _Job:
    """A job, and what has been told of it."""

    def __init__(self, number: str, log: Path) -> None:
        self.number, self.log = number, log
        self.state = self._told = self._line = ""
        self._has_run, self._said = False, time.monotonic()

    def tell(self, state: str, where: str) -> bool:
        """Prints a new state, or what the job does. Returns whether the state is new.

        Args:
            state: as SLURM calls it.
            where: the nodes of the job, or the reason of its state in parentheses.
        """
        self.state = state
        if state == "COMPLETING":  # SLURM clears its nodes, and the next state tells why
            return False
        word = "requeued" if state == "PENDING" and self._has_run else state.lower()
        self._has_run |= state == "RUNNING"
        told = word.replace("_", " ")
        if where.startswith("(") and where != "(None)":
            told += f" {where}"
        elif state == "RUNNING":
            told += f" on {where}"
        if told == self._told:
            if state == "RUNNING":
                self._tell_progress()
            return False
        self._told = told
        console.print(f"job {self.number}: {told}", soft_wrap=True)
        if state in ENDED and state != "COMPLETED":
            for line in self._lines()[-TAIL:]:
                console.print(f"    {line}", soft_wrap=True)
            console.print(f"    its log: {self.log}; the same command goes on where it stopped")
        return True

    def _tell_progress(self) -> None:
        """Prints the last line of the log from time to time."""
        if time.monotonic() - self._said < SAID_EVERY_S:
            return
        self._said = time.monotonic()
        line = last_line("\n".join(self._lines()))
        if line != self._line:
            console.print(f"job {self.number}: {line}", soft_wrap=True)
        self._line = line

    def _lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
