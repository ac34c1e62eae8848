"""How a process finds its place among the nodes."""

import pytest

from paceline.benchmarks.nodes.launcher import place
from paceline.benchmarks.spec.plugin import ConfigError

TORCHRUN = {
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "job",
}
SRUN = {
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "n[01-02]",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environment", "launcher", "address"),
    [
        (TORCHRUN, "torchrun", "n1"),
        (SRUN, "srun", "n01"),
        (SRUN | {"SLURM_STEP_NODELIST": "m3,n[01-02,7]"}, "srun", "m3"),
        (SRUN | TORCHRUN, "torchrun", "n1"),
        (
            {"CROSS_RANK": "1", "CROSS_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "n1"},
            "deepspeed",
            "n1",
        ),
        ({"PET_NODE_RANK": "1", "PET_NNODES": "2", "PET_MASTER_ADDR": "n1"}, "PET_*", "n1"),
        (
            {
                "SKYPILOT_NODE_RANK": "1",
                "SKYPILOT_NUM_NODES": "2",
                "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            },
            "SkyPilot",
            "10.0.0.1",
        ),
        ({"NODE_RANK": "1", "NNODES": "2", "MASTER_ADDR": "n1"}, "NODE_RANK", "n1"),
    ],
)
def test_each_launcher_tells_the_place_of_a_process(environment, launcher, address):
    found = place(environment)
    assert found is not None
    assert (found.launcher, found.node, found.nodes) == (launcher, 1, 2)
    assert (found.address, found.first) == (address, True)


def test_without_a_launcher_there_is_no_place():
    assert place({}) is None
    # Of the script of a batch job: no step has started it.
    batch = {k: v for k, v in SRUN.items() if not k.startswith("SLURM_STEP")}
    assert place(batch) is None


def test_only_the_first_process_of_a_node_has_work():
    found = place(TORCHRUN | {"LOCAL_RANK": "3"})
    assert found is not None
    assert not found.first


def test_two_commands_on_the_same_nodes_have_different_jobs():
    one, other = place(SRUN), place(SRUN | {"SLURM_STEP_ID": "1"})
    assert one is not None
    assert other is not None
    assert one.job != other.job


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"GROUP_WORLD_SIZE": "1:2"}, "GROUP_WORLD_SIZE=1:2 is no number"),
        ({"GROUP_RANK": "2"}, "GROUP_RANK=2 is no node of GROUP_WORLD_SIZE=2"),
    ],
)
def test_a_wrong_variable_is_named(wrong, message):
    with pytest.raises(ConfigError, match=message):
        place(TORCHRUN | wrong)
