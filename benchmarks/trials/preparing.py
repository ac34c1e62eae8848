"""Prepares trials on all nodes, and collects the facts that their records have in common."""

from collections.abc import Sequence
from typing import Any

from paceline.benchmarks.nodes.cluster import current
from paceline.benchmarks.nodes.remote import RemoteNode
from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.code import hashes
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.suitable import data_fingerprint, description, prepared
from paceline.benchmarks.trials.checkpoints import remove_old, saving_interval
from paceline.benchmarks.trials.display import Display
from paceline.benchmarks.trials.environment import differences, facts, revision, versions
from paceline.benchmarks.trials.room import check_room
from paceline.datasets.reading.cache import DataError


def prepare(trials: Sequence[Trial], display: Display) -> dict[str, Any]:
    """Prepares the data of trials on one workload and returns what their records have in common.

    Returns:
        A dictionary with `facts`, which are part of a trial's identity, and with `environment` and
        `data`, which describe the machines, the code and the data of the trials.

    Raises:
        ConfigError: if the trials cannot run on a node, if their classes do not fit, or if a node has
            other code, versions or data than the first.
        DataError: if the data cannot be used.
    """
    saving_interval()
    for name, hooks in trials[0].workload.hooks_not_called.items():
        display.note(f"{name}: not called: {', '.join(hooks)}")
    display.note(f"preparing the data of {trials[0].workload.name}")
    known, about_data = _prepared_here(trials)
    about = {
        "facts": known,
        "environment": {
            "versions": versions(),
            "hardware": known["hardware"],
            "revision": revision(),
        },
        "data": about_data | {"fingerprint": known["data"]},
    }
    _OtherNodes(trials, about, display).admit()
    return about


def _prepared_here(trials: Sequence[Trial]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Prepares the data on this node and returns its facts and the description of the data."""
    check_room(trials)
    remove_old()
    data = prepared(trials)
    files = {name: file for trial in trials for name, file in trial.files.items()}
    return facts(data_fingerprint(data), hashes(files)), description(data)


class _OtherNodes:
    """Prepares the data on the other nodes and compares them with this one, when they join.

    Args:
        trials: the trials.
        about: what their records have in common. The nodes are added to it.
        display: shows which nodes are ready.
    """

    def __init__(self, trials: Sequence[Trial], about: dict[str, Any], display: Display) -> None:
        self.trials, self.about, self.display = trials, about, display
        self.hardware: dict[str, Any] = {}
        self.late = False

    def admit(self) -> None:
        """Admits the nodes that are there now. Those that join later are admitted then."""
        cluster = current()
        cluster.admit(self._check)
        if (there := len(cluster.nodes)) < cluster.expected:
            self.display.note(
                f"{there} of {cluster.expected} nodes are there; others may join later"
            )
        self.late = True
        here = self.about["environment"]["hardware"]
        if differing := [hardware for hardware in self.hardware.values() if hardware != here]:
            self.about["facts"]["hardware"] = here | {"others": differing}

    def _check(self, node: RemoteNode) -> None:
        try:
            theirs, _ = node.call(_prepared_here, self.trials)
        except (ConfigError, DataError) as error:
            raise type(error)(f"{node}: {error}") from error
        found = differences(self.about["facts"], theirs)
        here, hardware = self.about["environment"]["hardware"], theirs["hardware"]
        if self.late and hardware not in (here, *self.hardware.values()):
            found.append("the hardware, and it joined late")
        if found:
            raise ConfigError(f"{node} differs from node 0: {', '.join(found)}; make them equal")
        self.hardware[node.name] = hardware
        self.about["environment"]["others"] = self.hardware
        self.display.note(f"{node} is ready")
