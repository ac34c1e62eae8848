"""Run inside a network namespace of its own: `counted CASE LEDGER KERNEL`, in bytes, at 4 workers."""

import os
import subprocess
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from lightning_modules.backend.launch import start_fork_server
from tests.test_conformance import CASES
from tests.workload import Plan, run_ranks, train


def loopback_bytes() -> int:
    """Bytes that the loopback interface has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    raise RuntimeError("there is no loopback interface")


def main() -> None:
    start_fork_server("benchmarks.trial", "tests.workload", "tests.test_conformance")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for case in CASES:
        if case.workers < 4:
            continue
        counted = case.trial(width=50_000, lr=0.001)
        before = loopback_bytes()
        figures = run_ranks(case.workers, train, counted, Plan())
        kernel = loopback_bytes() - before
        ledger = sum(row["wire_bytes"] for rank in figures for row in rank["ledger"])
        print("counted", case, ledger, kernel, flush=True)


if __name__ == "__main__":
    main()
