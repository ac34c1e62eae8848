"""Two nodes, as machines of their own, under each launcher that people have."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.machines import Machines, machines
from tests.on_nodes import CASES

pytestmark = pytest.mark.timeout(240)
FEW = ("sync_sgd-2-zero0-Tower", "model_averaging-2-zero0-Tower")
PLAIN = {"NNODES": "2", "MASTER_ADDR": "n1"}


@pytest.fixture
def two() -> Iterator[Machines]:
    with machines(2) as made:
        yield made


def environment(folder: Path, **more: str) -> dict[str, str]:
    own = {"PACELINE_HOME": str(folder), "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own, **more}


def on_both(
    two: Machines, folder: Path, command: Callable[[int], tuple[list[str], dict[str, str]]]
) -> list[dict[str, Any]]:
    """Starts the command of each node, and returns what the first one found."""
    processes = []
    for node in (0, 1):
        arguments, more = command(node)
        processes.append(
            two.popen(
                node,
                arguments,
                environment(folder, **more),
                ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [json.loads(line) for line in outputs[0].splitlines() if line.startswith("{")]


def plain(node: int) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "tests.on_nodes"], {**PLAIN, "NODE_RANK": str(node)}


def test_every_algorithm_trains_on_two_nodes_as_on_one(two, tmp_path):
    found = on_both(two, tmp_path, plain)
    assert [each["case"] for each in found] == [str(case) for case in CASES]
    for each in found:
        assert each["nodes"] == ["n1", "n2"]
        assert each["same"] or each["asynchronous"], each
    start = next(each for each in found if each["case"].startswith("independent"))
    for each in found:
        # What the ranks send to find each other is not in the ledger. It is the same for all.
        sent = each["kernel"] - start["kernel"] + start["ledger"]
        assert each["ledger"] * 0.99 <= sent <= each["ledger"] * 1.02, each


def torchrun(node: int) -> tuple[list[str], dict[str, str]]:
    options = ["--nnodes=2", f"--node-rank={node}", "--master-addr=n1", "--master-port=29511"]
    run = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc-per-node=2"]
    return [*run, "-m", "tests.on_nodes", *FEW], {}


def deepspeed(node: int) -> tuple[list[str], dict[str, str]]:
    hosts = Path(os.environ["PACELINE_TEST_HOSTS"])
    options = [f"--hostfile={hosts}", "--no_ssh", f"--node_rank={node}", "--master_addr=n1"]
    run = [sys.executable, "-m", "deepspeed.launcher.runner", *options, "--no_local_rank"]
    return [*run, "--module", "tests.on_nodes", *FEW], {}


def pods(node: int) -> tuple[list[str], dict[str, str]]:
    variables = {"PET_NNODES": "2", "PET_NODE_RANK": str(node), "PET_MASTER_ADDR": "n1"}
    return [sys.executable, "-m", "tests.on_nodes", *FEW], variables


@pytest.mark.parametrize("launcher", [torchrun, deepspeed, pods])
def test_each_launcher_gives_the_weights_of_one_node(two, tmp_path, launcher, monkeypatch):
    hosts = tmp_path / "hosts"
    hosts.write_text("n1 slots=1\nn2 slots=1\n")
    monkeypatch.setenv("PACELINE_TEST_HOSTS", str(hosts))
    found = on_both(two, tmp_path, launcher)
    assert [(each["case"], each["same"]) for each in found] == [(case, True) for case in FEW]
