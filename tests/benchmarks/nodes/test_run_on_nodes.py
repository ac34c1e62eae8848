"""The command line on two nodes: under SLURM, and while nodes come and go."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest
from mlflow.entities import Run

from paceline.reports.measures.results import FAILURE, RECORD_FILE, TRIAL_ID, read_json, search
from tests import ROOT
from tests.checkout import BENCHMARK, Checkout
from tests.machines import Machines, machines
from tests.processes import until
from tests.slurm import slurm

SPREAD = (
    BENCHMARK.replace("workers: [2],", "workers: [2], workers_per_node: 1,") + "seeds: [0, 1]\n"
)


def records(checkout: Checkout) -> list[dict[str, Any]]:
    """The records of the finished trials."""
    runs = search(checkout.client, "tiny", paceline__kind="trial")
    finished = [run.info.run_id for run in runs if run.info.status == "FINISHED"]
    return [read_json(checkout.client, run_id, RECORD_FILE) for run_id in finished]


def weights(checkout: Checkout) -> dict[tuple[str, int, int], str]:
    return {
        (r["trial"]["label"], r["trial"]["workers"], r["trial"]["seed"]): r["result"][
            "weights_sha256"
        ]
        for r in records(checkout)
    }


@pytest.fixture(scope="module")
def on_one_node(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, int], str]:
    """The weights that the benchmark gives on one node."""
    checkout = Checkout(tmp_path_factory.mktemp("one"), SPREAD)
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    return weights(checkout)


def environment(checkout: Checkout, **more: str) -> dict[str, str]:
    own = {"PACELINE_HOME": str(checkout.folder), "MLFLOW_TRACKING_URI": checkout.uri}
    return {**os.environ, **own, "PYTHONUNBUFFERED": "1", **more}


@pytest.mark.timeout(240)
def test_srun_runs_a_benchmark_on_two_nodes(tmp_path, on_one_node):
    checkout = Checkout(tmp_path, SPREAD)
    command = ["srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, "-m", "benchmarks"]
    with machines(3) as made, slurm(made) as cluster:
        process = cluster.popen(
            [*command, *checkout.run_command()],
            environment(checkout),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output = process.communicate(timeout=200)[0]
        assert process.returncode == 0, output
    assert "node 1 (n2) is ready" in output
    assert weights(checkout) == on_one_node
    for record in records(checkout):
        ranks = [rank["node"] for rank in record["result"]["ranks"]]
        assert ranks == (["n1", "n2"] if record["trial"]["workers"] == 2 else ["n1"])
        assert record["result"]["process_group"] == "gloo"
        assert list(record["environment"]["others"]) == ["n2"]
    assert checkout.pdf.is_file()


class Command:
    """The command on two nodes. What has ended is started again."""

    def __init__(self, made: Machines, checkout: Checkout) -> None:
        self.made, self.checkout = made, checkout
        self.processes: dict[int, subprocess.Popen[Any]] = {}

    def keep_running(self) -> None:
        for node in (0, 1):
            if node not in self.processes or self.processes[node].poll() is not None:
                self.start(node)

    def start(self, node: int) -> None:
        more = {"NNODES": "2", "NODE_RANK": str(node), "MASTER_ADDR": "n1"}
        with (self.checkout.folder / f"n{node + 1}.log").open("a") as log:
            self.processes[node] = self.made.popen(
                node,
                [sys.executable, "-m", "benchmarks", *self.checkout.run_command()],
                environment(self.checkout, **more),
                ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def trials(self) -> list[Run]:
        return search(self.checkout.client, "tiny", paceline__kind="trial")

    def until_next_trial(self) -> None:
        begun = len(self.trials())
        deadline = time.monotonic() + 90
        while len(self.trials()) == begun:
            assert time.monotonic() < deadline, self.said()
            self.keep_running()
            time.sleep(0.1)

    def finish(self) -> None:
        """Starts the command again until it has nothing left to do."""
        deadline = time.monotonic() + 120 + 30 * CUTS
        while self.processes[0].poll() != 0:
            assert time.monotonic() < deadline, self.said()
            self.keep_running()
            time.sleep(0.1)

    def said(self) -> str:
        logs = sorted(self.checkout.folder.glob("n?.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-6000:]}" for log in logs)

    def cut(self, kind: str) -> None:
        """Cuts something off for a while. What it ends is not started again here."""
        if kind in ("agent killed", "parent killed", "parent terminated"):
            process = self.processes[kind.startswith("agent")]
            process.send_signal(signal.SIGTERM if "terminated" in kind else signal.SIGKILL)
            process.wait(60)
        elif kind == "no power":
            self.made.kill(1)
        else:
            self.made.cut(1)
            time.sleep(3 if kind == "link down for a moment" else 20)
            self.made.mend(1)


KINDS = (
    "agent killed",
    "parent killed",
    "link down for long",
    "no power",
    "parent terminated",
    "link down for a moment",
)
CUTS = int(os.environ.get("PACELINE_TEST_CUTS", 4))


@pytest.mark.timeout(240 + 90 * CUTS)
def test_no_finished_trial_is_lost_or_doubled_while_nodes_come_and_go(tmp_path):
    seeds, drawn = list(range(CUTS)), random.Random(1)
    longer = SPREAD.replace("examples: 8000", "examples: 100000")
    checkout = Checkout(tmp_path, longer.replace("seeds: [0, 1]", f"seeds: {seeds}"))
    finished: set[str] = set()
    with machines(2) as made:
        command = Command(made, checkout)
        for number in range(CUTS):
            command.until_next_trial()
            time.sleep(drawn.uniform(0.5, 4))
            finished |= {
                run.info.run_id for run in command.trials() if run.info.status == "FINISHED"
            }
            command.cut(KINDS[number] if number < len(KINDS) else drawn.choice(KINDS))
        command.finish()
        command.processes[1].wait(
            150
        )  # it may have come when the parent had ended, and waits for it
        until(lambda: not [pid for node in (0, 1) for pid in made.processes(node)], 20)
    runs = command.trials()
    done = [run for run in runs if run.info.status == "FINISHED"]
    assert finished <= {run.info.run_id for run in done}
    assert len(done) == 2 * CUTS
    assert len({run.data.tags[TRIAL_ID] for run in done}) == 2 * CUTS
    reasons = [run.data.tags.get(FAILURE) for run in runs if run not in done]
    assert all(reasons), reasons
    print(Counter(run.info.status for run in runs), reasons)
