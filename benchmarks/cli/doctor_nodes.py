"""Checks that the nodes of a cluster can work together."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from paceline.benchmarks.cli.doctor import Finding, all_reduce, checks_here
from paceline.benchmarks.nodes.cluster import Cluster
from paceline.benchmarks.nodes.remote import NodeLost, RemoteNode
from paceline.benchmarks.spec.code import all_files, hashes
from paceline.benchmarks.trials.environment import differences, versions
from paceline.lightning_modules.backend.launch import Ranks

ROUND_TRIPS, PROBE_BYTES = 20, 32 * 2**20
MOST_S = 1.0  # between the clocks of two nodes


def checks_of_nodes(cluster: Cluster) -> Iterator[Finding]:
    """Yields the checks of the other nodes and of the network, if there are several nodes."""
    if cluster.expected == 1:
        return
    all_there = cluster.wait_for(cluster.expected)
    missing = None if all_there else "start the same command on every node"
    yield "nodes", f"{len(cluster.nodes)} of {cluster.expected} are there", missing
    for node in cluster.others:
        try:
            for name, found, remedy in [*node.call(checks_here), *_between(node)]:
                yield f"{node}: {name}", found, remedy
        except NodeLost as error:
            yield str(node), str(error), "see what it printed"
    if len(cluster.nodes) > 1:
        yield _over_the_network(cluster)


def _between(node: RemoteNode) -> Iterator[Finding]:
    differing = differences(_here(), node.call(_here))
    found = ", ".join(differing) if differing else "the same code and versions as node 0"
    yield "code", found, "make them equal" if differing else None
    seconds, clocks = [], []
    for _ in range(ROUND_TRIPS):
        begin = time.time()
        theirs = node.call(time.time)
        end = time.time()
        seconds.append(end - begin)
        clocks.append(theirs - (begin + end) / 2)
    ahead = median(clocks)
    wrong = None if abs(ahead) < MOST_S else "set the clocks, for example by NTP"
    yield "clock", f"{ahead:+.3f} s from that of node 0", wrong
    begin = time.perf_counter()
    node.call(len, bytes(PROBE_BYTES))
    rate = PROBE_BYTES / (time.perf_counter() - begin)
    trip = median(seconds) * 1e3
    yield "link", f"{trip:.2f} ms there and back, {rate / 1e6:.0f} MB/s by {node.interface}", None


def _here() -> dict[str, Any]:
    return {"code": hashes(all_files()), "versions": versions()}


def _over_the_network(cluster: Cluster) -> Finding:
    ranks, nodes = len(cluster.nodes), cluster.nodes
    try:
        with Ranks(ranks, all_reduce, log=Path(os.devnull), nodes=nodes) as started:
            sums = {value for _, kind, value in started.messages(60) if kind == "result"}
    except RuntimeError as error:
        return "network", str(error), "open all ports between the nodes, which gloo chooses freely"
    return "network", f"a rank on each of {ranks} nodes all-reduces to {sums}", None
