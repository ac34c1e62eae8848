"""Which node this process is, by the environment variables of the program that started it.

The same command is started once on every node. To support another launcher, add a line to `LAUNCHERS`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from paceline.benchmarks.spec.plugin import ConfigError


@dataclass(frozen=True)
class Place:
    """The place of a process among the nodes of a command.

    Attributes:
        launcher: the name of the program that started the process.
        node: the number of this node, from 0. The process of node 0 is the parent.
        nodes: the number of nodes.
        address: the name or address of node 0.
        job: a text that is the same on all nodes, and another one for another command.
        first: whether this is the first process of its node. The others have nothing to do.
    """

    launcher: str
    node: int
    nodes: int
    address: str
    job: str
    first: bool


@dataclass(frozen=True)
class Launcher:
    """A program that starts processes, and the environment variables that it sets.

    Attributes:
        node: the variable with the number of the node.
        nodes: that with the number of nodes.
        address: that with the address of node 0, or with a list of all nodes that begins with it.
        job: those that differ between two commands.
        local: that with the number of the process on its node, if it may start several.
    """

    name: str
    node: str
    nodes: str
    address: str
    job: tuple[str, ...] = ()
    local: str = ""


# The first one of which all variables are set counts. torchrun may itself have been started by another.
LAUNCHERS = (
    Launcher(
        "torchrun",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "MASTER_ADDR",
        ("TORCHELASTIC_RUN_ID", "MASTER_PORT"),
        "LOCAL_RANK",
    ),
    Launcher(
        "deepspeed", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", ("MASTER_PORT",), "LOCAL_RANK"
    ),
    # Those of a step, which `srun` sets. The script of a batch job has only those of the job.
    Launcher(
        "srun",
        "SLURM_NODEID",
        "SLURM_STEP_NUM_NODES",
        "SLURM_STEP_NODELIST",
        ("SLURM_JOB_ID", "SLURM_STEP_ID"),
        "SLURM_LOCALID",
    ),
    Launcher(
        "SkyPilot",
        "SKYPILOT_NODE_RANK",
        "SKYPILOT_NUM_NODES",
        "SKYPILOT_NODE_IPS",
        ("SKYPILOT_TASK_ID",),
    ),
    # Kubernetes' training operator sets these in its pods, for a torchrun that need not be there.
    Launcher("PET_*", "PET_NODE_RANK", "PET_NNODES", "PET_MASTER_ADDR", ("PET_MASTER_PORT",)),
    Launcher("NODE_RANK", "NODE_RANK", "NNODES", "MASTER_ADDR", ("MASTER_PORT",)),
)


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Returns the place of this process, or None if no launcher has started it.

    Raises:
        ConfigError: if a variable of the launcher is not as it should be.
    """
    for launcher in LAUNCHERS:
        needed = (launcher.node, launcher.nodes, launcher.address)
        if not all(environment.get(name) for name in needed):
            continue
        node, nodes = (_number(environment, name) for name in needed[:2])
        if not 0 <= node < nodes:
            raise ConfigError(
                f"{launcher.node}={node} is no node of {launcher.nodes}={nodes}; nodes are counted from 0"
            )
        return Place(
            launcher.name,
            node,
            nodes,
            _first_of(environment[launcher.address]),
            " ".join(environment.get(name, "") for name in launcher.job),
            environment.get(launcher.local, "0") == "0",
        )
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ConfigError(
            f"{name}={environment[name]} is no number; set it to the number of nodes, or of this node"
        ) from None


def _first_of(nodes: str) -> str:
    """Returns the first of a list of nodes, such as 'n[01-04],m3'."""
    # Imported here, because it takes a second, and because only a node needs it.
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    return SLURMEnvironment.resolve_root_node_address(nodes.split()[0])
