"""Divides the nodes of a sweep into groups. Each group runs trials of its own at the same time.

Every group has a parent process on node 0. These processes share the studies and the results there, as
several sweeps on one machine do, so no database between the nodes is needed.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from paceline.benchmarks.nodes.launcher import Place
from paceline.benchmarks.spec.plugin import ConfigError

GROUP = "PACELINE_NODE_GROUP"  # the number of the group whose parent a process is
ENDING_S = 60.0


def divided(place: Place, size: int | None) -> tuple[int, Place]:
    """Returns the number of the group of this process, and its place in the group.

    The parents of all groups but the first are not part of their group: no rank runs in their place.

    Args:
        place: the place among all nodes.
        size: the number of nodes of a group. With None, all nodes are one group.

    Raises:
        ConfigError: if the nodes cannot be divided into such groups.
    """
    if size is None or size == place.nodes:
        return 0, place
    if size < 1 or place.nodes % size:
        raise ConfigError(
            f"--nodes-per-trial: {place.nodes} nodes cannot be divided into groups of {size}"
        )
    if GROUP in os.environ:
        group, node = int(os.environ[GROUP]), 0
    else:
        group, node = divmod(place.node, size)
        node += group > 0
    return group, replace(place, node=node, nodes=size, job=f"{place.job} group {group}")


@contextmanager
def parents_of_other_groups(place: Place, size: int | None) -> Iterator[None]:
    """Runs the parents of all groups but the first while the block runs.

    They repeat the command of this process and end when no trial is left. What they print is shown with
    the number of their group.
    """
    groups = range(1, 1 if size is None else place.nodes // size)
    processes = [
        subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | {GROUP: str(group)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for group in groups
    ]
    for group, process in zip(groups, processes, strict=True):
        threading.Thread(target=_show, args=(group, process), daemon=True).start()
    try:
        yield
        for process in processes:
            process.wait(ENDING_S)
    finally:
        for process in processes:
            process.terminate()  # which does nothing to one that has ended
        for process in processes:
            process.wait()


def _show(group: int, process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"group {group}: {line}", end="", flush=True)
