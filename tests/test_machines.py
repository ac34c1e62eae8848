"""The machines that other tests use: they reach each other, are cut off, and leave nothing."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests import ROOT
from tests.machines import Machines, machines
from tests.processes import running, until

pytestmark = pytest.mark.timeout(60)

LISTEN = """
import socket
server = socket.create_server(("0.0.0.0", 5000))
print("listening", flush=True)
while True:
    with server.accept()[0] as client:
        received = 0
        while part := client.recv(1 << 16):
            received += len(part)
        client.sendall(b"%d" % received)
"""
SEND = """
import socket
with socket.create_connection(("%s", 5000), timeout=%d) as server:
    server.sendall(bytes(1_000_000))
    server.shutdown(socket.SHUT_WR)
    print(server.recv(100).decode())
"""


@pytest.fixture
def two() -> Iterator[Machines]:
    with machines(2) as made:
        listener = made.popen(1, [sys.executable, "-c", LISTEN], stdout=subprocess.PIPE)
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"listening\n"
        yield made
        listener.stdout.close()


def send(
    two: Machines, sender: int = 0, to: str = "n2", timeout: int = 20
) -> "subprocess.CompletedProcess[str]":
    return two.run(sender, [sys.executable, "-c", SEND % (to, timeout)])


def test_two_machines_reach_each_other_by_name_and_the_kernel_counts_what_they_send(two):
    before = [two.sent_bytes(node) for node in (0, 1)]
    sent = send(two)
    assert sent.stdout == "1000000\n", sent.stderr
    forth, back = (two.sent_bytes(node) - before[node] for node in (0, 1))
    assert 1_000_000 < forth < 1_100_000
    assert 0 < back < 100_000


def test_each_machine_has_its_own_name_address_and_loopback(two):
    told = [two.run(node, ["sh", "-c", "hostname; hostname -i"]).stdout for node in (0, 1)]
    assert told == ["n1\n10.77.0.1\n", "n2\n10.77.0.2\n"]
    # Only the second one listens.
    assert "ConnectionRefusedError" in send(two, 0, to="localhost").stderr
    assert send(two, 1, to="localhost").stdout == "1000000\n"


def test_a_cut_machine_is_not_reached_until_it_is_mended(two):
    two.cut(1)
    assert "TimeoutError" in send(two, timeout=1).stderr
    two.mend(1)
    assert send(two).stdout == "1000000\n"


def test_a_signal_reaches_the_command_itself_in_its_folder_and_environment(two, tmp_path):
    show = "import os, time; print(os.getpid(), os.getcwd(), os.environ['SHOWN'], flush=True)"
    command = [sys.executable, "-c", f"{show}; time.sleep(60)"]
    process = two.popen(
        0, command, env={"SHOWN": "yes"}, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().split() == [str(process.pid), str(tmp_path), "yes"]
    assert two.processes(0) == [process.pid]
    process.send_signal(signal.SIGUSR1)
    assert process.wait(10) == -signal.SIGUSR1
    assert two.processes(0) == []
    process.stdout.close()


def test_nothing_is_left_of_machines_whose_test_failed():
    before = psutil.Process().children()
    inside = []

    def fail() -> None:
        with machines(2) as made:
            made.popen(0, ["sh", "-c", "setsid sleep 60 & trap '' TERM; sleep 60"])
            until(lambda: len(made.processes(0)) == 3)
            inside.extend(made.processes(0))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert running(inside) == []
    assert psutil.Process().children() == before


def test_nothing_is_left_of_machines_whose_test_was_killed():
    begin = """
import os, psutil, time
from tests.machines import machines
with machines(1) as made:
    made.popen(0, ["sh", "-c", "setsid sleep 60 & sleep 60"])
    while len(made.processes(0)) < 3:
        time.sleep(0.01)
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    os.kill(os.getpid(), 9)
"""
    killed = subprocess.run(
        [sys.executable, "-c", begin], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30
    )
    assert killed.returncode == -signal.SIGKILL
    left = [int(pid) for pid in killed.stdout.split()]
    # What it started, and a shell and its `cat` for the switch and for the machine.
    assert len(left) == 3 + 2 + 2
    until(lambda: running(left) == [])
