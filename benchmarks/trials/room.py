"""Checks that this machine has room for trials: GPUs, memory and network interfaces."""

import os
import socket
from collections.abc import Sequence

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.trials.environment import hardware, memory_bytes

RANK_BYTES = 200 * 2**20  # the memory of a rank with a tiny model, measured after an evaluation


def check_room(trials: Sequence[Trial]) -> None:
    """Checks that the trial with the most workers has room on this machine.

    Raises:
        ConfigError: if there are too few GPUs, too little memory, or no network interface of a name in
            `GLOO_SOCKET_IFNAME`. The message is one line.
    """
    largest = max(trials, key=lambda trial: trial.workers)
    workers, gpus = largest.workers, len(hardware()["gpus"])
    if largest.accelerator == "gpu" and not gpus:
        raise ConfigError(
            "scale.accelerator is gpu, and torch sees no GPU here; set scale.accelerator to cpu"
        )
    if largest.accelerator != "cpu" and gpus and workers > gpus:
        raise ConfigError(
            f"{workers} workers take a GPU each, and there are {gpus} here; set scale.workers to at"
            f" most {gpus}, or scale.accelerator to cpu"
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
