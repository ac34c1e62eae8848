"""Several machines on this one: each has a network, a host name and a table of hosts of its own.

Nothing of them has a name on this machine: they last as long as the processes in them. So any
number of them exist at once, and nothing of them is left in the end.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.lacking import lacking

NAMESPACES = ("--net", "--uts", "--mount")
# `cat` keeps the namespaces until the test closes its standard input. Where the test itself was
# killed, nothing but the last line ends what still runs in there.
KEEP = """
set -e
ip link set lo up
hostname "$1"
hosts=$(mktemp)
printf '%s' "$2" >"$hosts"
chmod 644 "$hosts"
mount --bind "$hosts" /etc/hosts
rm "$hosts"
echo kept
cat
exec 2>/dev/null
kill -KILL $(find -L /proc/[0-9]*/ns/net -samefile /proc/$$/ns/net | cut -d/ -f3 | grep -vx $$)
"""


class _Kept:
    """Namespaces that last as long as a process in them."""

    def __init__(self, name: str, hosts: str) -> None:
        self.keeper = subprocess.Popen(
            ["unshare", *NAMESPACES, "sh", "-c", KEEP, "sh", name, hosts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt from the keyboard is for the test, which ends it
        )
        self.pid = self.keeper.pid

    def wait_until_kept(self) -> None:
        assert self.keeper.stdout is not None
        if self.keeper.stdout.readline() != "kept\n":
            raise RuntimeError("no machine can be made here: see standard error")

    def enter(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--target={self.pid}", *NAMESPACES, "--", *command]

    def configure(self, links: str) -> None:
        """Runs lines of `ip` inside."""
        subprocess.run(
            self.enter(["ip", "-batch", "-"]), input=links, text=True, check=True, timeout=30
        )

    def processes(self) -> list[int]:
        """Those that run inside, without the keeper and without zombies."""
        own = _link(Path(f"/proc/{self.pid}/ns/net"))
        return [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if own and _link(process / "ns" / "net") == own
            if int(process.name) not in self._keepers()
        ]

    def _keepers(self) -> list[int]:
        """The shell and its `cat`."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def end(self) -> None:
        """Kills what runs inside, and then nothing keeps the namespaces."""
        self.kill()
        self.keeper.communicate(timeout=30)

    def kill(self) -> None:
        deadline = time.monotonic() + 30
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {left} outlive SIGKILL")
            time.sleep(0.01)


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""  # it has ended


class Machines:
    """Machines n1, n2, ..., which know each other by name. The first has number 0."""

    def __init__(self, count: int) -> None:
        self.names = [f"n{i + 1}" for i in range(count)]
        self.addresses = [f"10.77.0.{i + 1}" for i in range(count)]
        lines = zip(["127.0.0.1", *self.addresses], ["localhost", *self.names], strict=True)
        hosts = "".join(f"{address} {name}\n" for address, name in lines)
        self._started: list[subprocess.Popen[Any]] = []
        self._switch = _Kept("switch", hosts)
        self._kept = [_Kept(name, hosts) for name in self.names]

    def _connect(self) -> None:
        for kept in (self._switch, *self._kept):
            kept.wait_until_kept()
        # Without IPv6 addresses, which would announce themselves and count as sent bytes.
        quiet = "addrgenmode none"
        links = f"link add br0 type bridge\nlink set br0 {quiet} up\n"
        for i, kept in enumerate(self._kept):
            links += f"link add port{i} type veth peer name eth0 netns {kept.pid}\n"
            links += f"link set port{i} {quiet} master br0 up\n"
        self._switch.configure(links)
        for kept, address in zip(self._kept, self.addresses, strict=True):
            kept.configure(f"link set eth0 {quiet} up\naddress add {address}/24 dev eth0\n")

    def _end(self) -> None:
        with contextlib.ExitStack() as all_of_them:
            for kept in (self._switch, *self._kept):
                all_of_them.callback(kept.end)
        for process in self._started:
            process.wait(timeout=30)

    def inside(self, node: int, command: Sequence[str], cwd: Path | str | None = None) -> list[str]:
        """The command line that runs a command in a machine.

        It becomes the command: a signal to it reaches the command itself.
        """
        folder = Path(cwd or ".").absolute()  # entering a machine leads to `/`
        return self._kept[node].enter(["env", f"--chdir={folder}", *command])

    def popen(
        self,
        node: int,
        command: Sequence[str],
        env: dict[str, str] | None = None,
        cwd: Path | str | None = None,
        **options: Any,
    ) -> "subprocess.Popen[Any]":
        """Starts a command in a machine. Whatever still runs there in the end is killed."""
        process = subprocess.Popen(self.inside(node, command, cwd), env=env, **options)
        self._started.append(process)
        return process

    def run(
        self, node: int, command: Sequence[str], timeout: float = 60, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a command in a machine to its end."""
        options = {"capture_output": True, "text": True} | options
        return subprocess.run(self.inside(node, command), timeout=timeout, **options)

    def cut(self, node: int) -> None:
        """Pulls the cable of a machine: what it sends is lost, and no error tells it."""
        self._switch.configure(f"link set port{node} down\n")

    def mend(self, node: int) -> None:
        self._switch.configure(f"link set port{node} up\n")

    def sent_bytes(self, node: int) -> int:
        """What a machine has sent to others, with headers, as its kernel counts it."""
        for line in Path(f"/proc/{self._kept[node].pid}/net/dev").read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == "eth0":
                return int(counters.split()[8])
        raise LookupError(f"{self.names[node]} has no eth0")

    def processes(self, node: int) -> list[int]:
        """What runs in a machine, by the process ids of this machine."""
        return self._kept[node].processes()

    def kill(self, node: int) -> None:
        """Kills all that runs in a machine, as when it loses power. The network stays."""
        self._kept[node].kill()


def need_machines() -> None:
    """Skips the test, or fails it in CI, where no machines can be made."""
    if os.geteuid() != 0:
        lacking("only root makes machines with networks of their own")
    if shutil.which("ip") is None:
        lacking("`ip` is not installed (Debian: iproute2)")
    if subprocess.run(["unshare", *NAMESPACES, "true"], capture_output=True).returncode != 0:
        lacking("no network namespace can be made here (unshare --net is refused)")


@contextlib.contextmanager
def machines(count: int) -> Iterator[Machines]:
    """So many machines, joined by one switch. They end with all that runs in them."""
    need_machines()
    made = Machines(count)
    try:
        made._connect()
        yield made
    finally:
        made._end()
