"""Run inside a network namespace of its own: `counted CASE LEDGER KERNEL`, in bytes, at 4 workers."""

import os
import subprocess

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from paceline.benchmarks.meters.communication import sent_bytes
from paceline.lightning_modules.backend.local_ranks import start_fork_server
from tests.cases import CASES
from tests.ranks import Plan, run_ranks, train


def main() -> None:
    start_fork_server("paceline.benchmarks.trials.rank", "tests.ranks", "tests.workload")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for case in CASES:
        if case.workers < 4:
            continue
        counted = case.trial(width=50_000, lr=0.001)
        before = sent_bytes("lo")
        figures = run_ranks(case.workers, train, counted, Plan())
        kernel = sent_bytes("lo") - before
        ledger = sum(row["wire_bytes"] for rank in figures for row in rank["ledger"])
        print("counted", case, ledger, kernel, flush=True)


if __name__ == "__main__":
    main()
