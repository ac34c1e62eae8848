"""Who joins a parent and who does not, on one machine: each node is a process of its own."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

import pytest

from paceline.benchmarks.cli.doctor_nodes import checks_of_nodes
from paceline.benchmarks.nodes.cluster import Cluster, gathered
from paceline.benchmarks.nodes.joining import REFUSED, join, secret
from paceline.benchmarks.nodes.launcher import place
from paceline.benchmarks.nodes.remote import NodeLost, RemoteNode
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.lightning_modules.backend.launch import RankFailed, Ranks
from tests import ROOT

pytestmark = pytest.mark.timeout(120)
HERE = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture
def number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of the parent, which is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        found: int = free.getsockname()[1]
    monkeypatch.setenv("PACELINE_PORT", str(found))
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    return found


@pytest.fixture
def parent(number: int) -> Iterator[Cluster]:
    here = place(HERE)
    assert here is not None
    with gathered(here, [], 60.0) as cluster:
        yield cluster


@contextmanager
def agent(node: int = 1, **more: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.on_nodes"],
        cwd=ROOT,
        env=os.environ | HERE | {"NODE_RANK": str(node)} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_and_tell(seconds: float, report: Callable[[str, Any], None]) -> str:
    time.sleep(seconds)
    return os.environ["GROUP_RANK"]


def told(cluster: Cluster, seconds: float) -> list[str]:
    with Ranks(2, wait_and_tell, seconds, nodes=cluster.usable(2)) as ranks:
        return sorted(value for _, kind, value in ranks.messages(60) if kind == "result")


def knock(number: int, how: int) -> None:
    """Connects as a stranger, in one of several ways, and leaves the connection open."""
    with suppress(*REFUSED, AuthenticationError):
        match how % 4:
            case 0:
                join("127.0.0.1", number, b"a wrong secret")
            case 1:
                OPEN.append(socket.create_connection(("127.0.0.1", number), 5))
            case 2:
                OPEN.append(socket.create_connection(("127.0.0.1", number), 5))
                OPEN[-1].sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
            case 3:
                OPEN.append(socket.create_connection(("127.0.0.1", number), 5))
                OPEN[-1].sendall(b"\x7f\xff\xff\xff")  # as the length of a message


OPEN: list[socket.socket] = []


def test_strangers_change_nothing(parent: Cluster, number: int) -> None:
    results: list[list[str]] = []
    with agent():
        assert parent.wait_for(2)
        trial = threading.Thread(target=lambda: results.append(told(parent, 10)))
        trial.start()
        for how in range(10_000):
            knock(number, how)
            if len(OPEN) > 200:
                OPEN.pop(0).close()
        trial.join()
        assert results == [["0", "1"]]
        assert len(parent.nodes) == 2
        assert told(parent, 0) == ["0", "1"]  # new ranks find the store past the strangers
    while OPEN:
        OPEN.pop().close()


def test_an_agent_that_comes_later_joins(parent: Cluster) -> None:
    assert len(parent.nodes) == 1
    with agent():
        assert told(parent, 0) == ["0", "1"]


def test_a_node_that_goes_away_ends_the_trial_with_its_reason(parent: Cluster) -> None:
    with agent() as process:
        assert parent.wait_for(2)
        reason = r"rank 1 was lost with its node, node 1 \(.+\)"
        threading.Timer(2, process.kill).start()
        with pytest.raises(RankFailed, match=reason):
            told(parent, 60)
    parent.wait_s = 0.5
    with pytest.raises(NodeLost, match="needs 2 nodes, and 1 of 2 are there"):
        told(parent, 0)
    parent.wait_s = 60.0
    with agent():
        assert parent.wait_for(2)
        assert told(parent, 0) == ["0", "1"]


def test_an_agent_with_another_secret_is_told(parent: Cluster) -> None:
    with agent(PACELINE_SECRET="another") as process:
        assert process.wait(60) == 1
        assert process.stdout is not None
        assert "has another secret; set PACELINE_SECRET" in process.stdout.read()


def refuse(node: RemoteNode) -> None:
    raise ConfigError(f"{node} has other data")


def test_a_node_that_differs_is_named_and_refused_when_it_comes_late(parent: Cluster) -> None:
    parent.admit(refuse)
    parent.wait_s = 15.0
    with agent() as process:
        with pytest.raises(NodeLost):
            told(parent, 0)
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert "has other data" in process.stdout.read()


def test_doctor_checks_the_nodes_and_the_link_between_them(parent: Cluster) -> None:
    with agent():
        found = {name: (text, remedy) for name, text, remedy in checks_of_nodes(parent)}
    assert found["nodes"] == ("2 of 2 are there", None)
    assert found["network"] == ("a rank on each of 2 nodes all-reduces to {2.0}", None)
    own = {name.rpartition(": ")[2]: of for name, of in found.items() if name.startswith("node 1")}
    assert own["code"] == ("the same code and versions as node 0", None)
    assert own["link"][0].endswith("MB/s by lo")
    assert own["clock"][1] is None
    assert own["ranks"] == ("2 ranks all-reduce over gloo to {2.0}", None)


def test_a_secret_that_others_can_read_is_refused(number: int, tmp_path: Path) -> None:
    known = secret(make=True)
    file = tmp_path / "nodes.secret"
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret(make=True) == known
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others; run `chmod 600"):
        secret(make=False)


def test_a_port_that_is_taken_is_named(number: int) -> None:
    here = place(HERE)
    assert here is not None
    with (
        socket.create_server(("", number)),
        pytest.raises(ConfigError, match=f"port {number}, for the other nodes"),
        gathered(here, [], 0.0),
    ):
        pass
