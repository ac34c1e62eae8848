"""The SLURM that other tests use: it starts jobs on all machines, and leaves nothing."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines import machines
from tests.processes import running, until
from tests.slurm import Slurm, slurm

pytestmark = pytest.mark.timeout(120)

ON_BOTH = ("srun", "--nodes=2", "--ntasks-per-node=1")


@pytest.fixture
def cluster() -> Iterator[Slurm]:
    with machines(3) as made, slurm(made) as started:
        yield started


def hosts(cluster: Slurm) -> list[str]:
    done = cluster.run([*ON_BOTH, "hostname"])
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.split())


def test_a_step_runs_on_every_machine_soon_and_nothing_is_left():
    begin = time.monotonic()
    with machines(3) as made, slurm(made) as cluster:
        assert hosts(cluster) == ["n1", "n2"]
        assert time.monotonic() - begin < 20
        daemons = [pid for node in range(3) for pid in made.processes(node)]
        assert len(daemons) >= 4  # of munge, the controller and two nodes
    assert running(daemons) == []
    assert not cluster.folder.exists()


def test_a_batch_job_is_cancelled_with_all_it_started(cluster: Slurm, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n{' '.join(ON_BOTH)} sh -c 'touch $SLURMD_NODENAME; sleep 100'\n")
    before = [cluster.machines.processes(node) for node in cluster.nodes]
    job = cluster.run(
        ["sbatch", "--parsable", "--nodes=2", f"--chdir={tmp_path}", str(script)]
    ).stdout.strip()
    until(lambda: (tmp_path / "n1").exists() and (tmp_path / "n2").exists())
    assert cluster.run(["scancel", job]).returncode == 0
    cluster.wait_for_nodes("idle")
    until(lambda: [cluster.machines.processes(node) for node in cluster.nodes] == before)


def test_a_killed_machine_comes_back(cluster: Slurm) -> None:
    cluster.kill_node(1)
    assert cluster.machines.processes(1) == []
    cluster.start_node(1)
    assert hosts(cluster) == ["n1", "n2"]
