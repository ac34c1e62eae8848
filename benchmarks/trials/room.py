"""Checks that the nodes have room for trials: GPUs, memory and network interfaces."""

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from paceline.benchmarks.nodes.cluster import Cluster
from paceline.benchmarks.spec.benchmark import Benchmark, Trial
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.settings import Scale
from paceline.benchmarks.trials.environment import hardware, memory_bytes

RANK_BYTES = 200 * 2**20  # the memory of a rank with a tiny model, measured after an evaluation


def spread(benchmark: Benchmark, cluster: Cluster) -> Benchmark:
    """Returns the benchmark with the number of nodes and of the workers on each, if there are several.

    Raises:
        ConfigError: if the benchmark asks for more nodes than the launcher has started.
    """
    scale = benchmark.scale
    nodes = scale.nodes or cluster.expected
    if nodes > cluster.expected:
        raise ConfigError(
            f"scale.nodes is {nodes}, and {cluster.expected} started; start the same command on every"
            " node, see docs/nodes.md"
        )
    if nodes == 1:
        return benchmark
    cluster.wait_for(nodes)
    machines = [hardware(), *(node.call(hardware) for node in cluster.others)]
    room = scale.workers_per_node or min(_places(scale, machine) for machine in machines)
    return replace(benchmark, scale=replace(scale, nodes=nodes, workers_per_node=room))


def _places(scale: Scale, machine: dict[str, Any]) -> int:
    """Returns the number of workers for which a machine has a GPU, or the cores."""
    if scale.accelerator != "cpu" and machine["gpus"]:
        return len(machine["gpus"])
    return max(1, int(machine["cores"]) // scale.threads)


def check_room(trials: Sequence[Trial]) -> None:
    """Checks that the trial with the most workers on a node has room on this machine.

    Raises:
        ConfigError: if there are too few GPUs, too little memory, or no network interface of a name in
            `GLOO_SOCKET_IFNAME`. The message is one line.
    """
    largest = max(trials, key=lambda trial: trial.workers // trial.nodes)
    workers, gpus = largest.workers // largest.nodes, len(hardware()["gpus"])
    if largest.accelerator == "gpu" and not gpus:
        raise ConfigError(
            "scale.accelerator is gpu, and torch sees no GPU here; set scale.accelerator to cpu"
        )
    if largest.accelerator != "cpu" and gpus and workers > gpus and largest.nodes > 1:
        raise ConfigError(
            f"{workers} workers on a node take a GPU each, and there are {gpus} here; set scale.workers"
            f" to at most {gpus * largest.nodes}, or scale.nodes to 1, where workers may share a GPU"
        )
    most = memory_bytes() // RANK_BYTES
    if workers > most:
        raise ConfigError(
            f"{workers} workers do not fit into the {memory_bytes() / 2**30:.0f} GiB of memory here;"
            f" set workers to at most {most}"
        )
    there = [name for _, name in socket.if_nameindex()]
    for name in filter(None, os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")):
        if name not in there:
            raise ConfigError(
                f"GLOO_SOCKET_IFNAME names the interface {name}, and this machine has"
                f" {', '.join(there)}; unset the variable or name one of them"
            )
