"""SLURM itself, on the machines of a test."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.lacking import lacking
from tests.machines import Machines
from tests.processes import until

# What a real cluster waits for minutes to notice, it notices here in seconds: a machine that is
# gone, a job that ignores SIGTERM, and a job that may begin again.
CONFIGURATION = """
ClusterName=paceline
SlurmctldHost={controller}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
SlurmdTimeout=3
MessageTimeout=5
KillWait=3
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SelectType=select/cons_tres
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
PartitionName=all Nodes=ALL Default=YES State=UP
"""
# Without it, slurmd ends where no control groups are mounted, as in many containers.
CGROUPS = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"


class Slurm:
    """A cluster of all machines but the last, which is its controller and where jobs are given."""

    def __init__(self, machines: Machines, folder: Path, cpus: int) -> None:
        self.machines = machines
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.controller = len(machines.names) - 1
        self.nodes = range(self.controller)
        (folder / "cgroup.conf").write_text(CGROUPS)
        (folder / "state").mkdir()
        text = CONFIGURATION.format(
            controller=machines.names[-1], address=machines.addresses[-1], folder=folder
        )
        for node in self.nodes:
            name, address = machines.names[node], machines.addresses[node]
            text += f"NodeName={name} NodeAddr={address} CPUs={cpus}\n"
        self.conf.write_text(text)

    def _start(self) -> None:
        self._start_munged()
        self._start_daemon(self.controller, "slurmctld", "-D", f"-f{self.conf}")
        for node in self.nodes:
            self.start_node(node)
        self.wait_for_nodes("idle")

    def _start_munged(self) -> None:
        """One for all machines: they share its socket, as they share all files."""
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        self._start_daemon(
            self.controller,
            "munged",
            "--foreground",
            f"--key-file={key}",
            f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid",
            f"--seed-file={self.folder}/munge.seed",
            f"--log-file={self.folder}/munged.log",
        )
        self._until((self.folder / "munge.socket").exists)

    def _start_daemon(self, node: int, program: str, *arguments: str) -> Path:
        output = self.folder / f"{program}-{self.machines.names[node]}.out"
        with output.open("w") as out:  # not through a pipe, which nobody would read
            self.machines.popen(
                node,
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return output

    def start_node(self, node: int) -> None:
        """Starts slurmd on a machine, at first or after it was killed, and waits until it listens."""
        output = self._start_daemon(node, "slurmd", "-D", f"-f{self.conf}")
        self._until(lambda: "slurmd started" in output.read_text())

    def kill_node(self, node: int) -> None:
        """Kills slurmd, the steps of jobs and all else on a machine, as when it loses power."""
        self.machines.kill(node)

    def popen(
        self, command: Sequence[str], env: dict[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[Any]":
        """Starts a command of SLURM, or a program that calls some, on the controller."""
        return self.machines.popen(self.controller, command, env=self._knowing(env), **options)

    def run(
        self, command: Sequence[str], env: dict[str, str] | None = None, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        return self.machines.run(self.controller, command, env=self._knowing(env), **options)

    def _knowing(self, env: dict[str, str] | None) -> dict[str, str]:
        return {**(os.environ if env is None else env), "SLURM_CONF": str(self.conf)}

    def states(self) -> list[str]:
        """What the controller thinks of each machine: `idle`, `allocated`, `down`, ..."""
        told = self.run(["sinfo", "--noheader", "--Node", "--format=%T"])
        return told.stdout.split()

    def wait_for_nodes(self, state: str, timeout_s: float = 60) -> None:
        """Waits until all machines are in a state."""
        wanted = [state] * len(self.nodes)
        self._until(lambda: self.states() == wanted, timeout_s)

    def _until(self, happened: Callable[[], bool], timeout_s: float = 60) -> None:
        try:
            until(happened, timeout_s)
        except AssertionError as error:
            error.add_note(self._said())
            raise

    def _said(self) -> str:
        """The end of what each daemon has said."""
        outputs = sorted(self.folder.glob("*.out"))
        return "\n".join(f"{file.stem}:\n{file.read_text()[-2000:]}" for file in outputs)

    def _end(self) -> None:
        for node in (self.controller, *self.nodes):
            self.machines.kill(node)


def need_slurm() -> None:
    """Skips the test, or fails it in CI, where SLURM is not installed."""
    for program in ("slurmctld", "slurmd", "munged", "srun"):
        if shutil.which(program) is None:
            lacking(f"`{program}` is not installed (Debian: slurm-wlm, munge)")


@contextlib.contextmanager
def slurm(machines: Machines, cpus: int = 8) -> Iterator[Slurm]:
    """SLURM on all machines but the last, which is the controller. It ends what runs on them.

    Each node has so many CPUs for SLURM, whatever this machine has.
    """
    need_slurm()
    with tempfile.TemporaryDirectory(prefix="paceline-slurm-") as folder:
        Path(folder).chmod(0o755)  # munged refuses a socket that others cannot reach
        cluster = Slurm(machines, Path(folder), cpus)
        try:
            cluster._start()
            yield cluster
        finally:
            cluster._end()
