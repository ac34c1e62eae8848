"""Run on each of two nodes, `on_nodes [CASE ...]`: trains on both and on one, and prints the result."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from paceline.benchmarks.meters.communication import sent_bytes
from paceline.benchmarks.nodes.agent import serve
from paceline.benchmarks.nodes.cluster import gathered
from paceline.benchmarks.nodes.launcher import place
from paceline.benchmarks.spec.benchmark import Trial
from paceline.lightning_modules.backend.launch import Node, Ranks
from paceline.lightning_modules.backend.local_ranks import ThisMachine, start_fork_server
from tests.cases import ALGORITHMS, Case
from tests.ranks import Plan, train

CASES = [
    *(Case("sync_sgd", 2, zero_stage=stage) for stage in range(4)),
    *(Case(name, 2) for name in ALGORITHMS if name not in ("baseline", "sync_sgd")),
]
WIDTH, STEPS, WAIT_S = 60_000, 10, 60.0


def run(trial: Trial, nodes: Sequence[Node]) -> list[dict[str, Any]]:
    with Ranks(trial.workers, train, trial, Plan(), nodes=nodes) as ranks:
        results = {rank: value for rank, kind, value in ranks.messages(60) if kind == "result"}
    return [results[rank] for rank in sorted(results)]


def main() -> None:
    here = place()
    if here is not None and not here.first:
        return
    assert here is not None
    start_fork_server("paceline.benchmarks.trials.rank", "tests.ranks", "tests.workload")
    if here.node:
        sys.exit(serve(here, [], WAIT_S))
    chosen = [case for case in CASES if str(case) in sys.argv[1:]] or CASES
    with gathered(here, [], WAIT_S) as cluster:
        for case in chosen:
            trial = case.trial(width=WIDTH, lr=0.001, nodes=2, steps=STEPS)
            nodes, (other,) = cluster.usable(2), cluster.others
            before = sent_bytes("eth0") + other.call(sent_bytes, "eth0")
            apart = run(trial, nodes)
            kernel = sent_bytes("eth0") + other.call(sent_bytes, "eth0") - before
            together = run(trial, [ThisMachine()])
            found: dict[str, Any] = {
                "case": str(case),
                "asynchronous": trial.algorithm_class.asynchronous,
                "same": [a["weights_sha256"] for a in apart]
                == [t["weights_sha256"] for t in together],
                "nodes": [a["node"] for a in apart],
                "kernel": kernel,
                "ledger": sum(row["wire_bytes"] for rank in apart for row in rank["ledger"]),
            }
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
