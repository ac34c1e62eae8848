"""Run inside a network namespace of its own: `workers, bytes by the ledger, bytes by the kernel`."""

import os
import subprocess
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from lightning_modules.backend.launch import start_fork_server
from tests.workload import Plan, run_ranks, train, trial


def loopback_bytes() -> int:
    """Bytes that the loopback interface has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[8])
    raise RuntimeError("there is no loopback interface")


def main() -> None:
    start_fork_server("tests.workload")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for workers in (2, 4):
        before = loopback_bytes()
        figures = run_ranks(workers, train, trial(workers, steps=20, width=50_000), Plan())
        kernel = loopback_bytes() - before
        ledger = sum(row["wire_bytes"] for rank in figures for row in rank["ledger"])
        print(workers, ledger, kernel)


if __name__ == "__main__":
    main()
