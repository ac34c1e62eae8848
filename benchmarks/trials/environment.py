"""What a trial's figures depend on besides its configuration: code, versions, hardware."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from paceline.benchmarks.trials.cgroups import cpu_quota, memory_limit
from paceline.home import PACKAGE

PACKAGES = ("torch", "pytorch-lightning", "deepspeed", "torchmetrics", "numpy", "mlflow")


@cache
def code_hash() -> str:
    """16 hex digits over the sources that decide a trial's figures: data, algorithms, the trial itself.

    A change elsewhere (a figure of the report, a docs page) leaves finished trials valid.
    """
    digest = hashlib.sha256()
    sources = [*PACKAGE.glob("lightning_modules/**/*.py"), *PACKAGE.glob("datasets/**/*.py")]
    of_rank = ("dealing.py", "faults.py", "meter.py", "rank.py")
    trial = [PACKAGE / "benchmarks" / "trials" / name for name in of_rank]
    for path in [*sorted(sources), *trial]:
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def facts(fingerprint: str) -> dict[str, Any]:
    """What a trial's identity rests on besides its configuration, given the data's fingerprint."""
    return {
        "code": code_hash(),
        "data": fingerprint,
        "versions": versions(),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """Python and the packages that a figure may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def this_process() -> str:
    """The name of this process: where it runs, its number and when it began, so that no other has it."""
    return process_name(os.getpid())


def process_name(number: int) -> str:
    """The name of a process of this host, `place/number/began`.

    The place is the host with the boot of its kernel and the namespace of process numbers, as two
    machines or two containers may have one name. It began so many clock ticks after the boot, which no
    step of the clock changes.

    Raises:
        OSError: there is none.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    place = f"{os.uname().nodename} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    # The name of the program, in brackets, may hold anything; behind it `began` is the 20th field.
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return f"{place}/{number}/{fields[19]}"


def is_gone(process: str) -> bool:
    """Whether a process of that name has ended; of those in other places nothing is known."""
    place, number, _ = process.rsplit("/", 2)
    if place != this_process().rsplit("/", 2)[0]:
        return False
    try:
        return process_name(int(number)) != process
    except OSError:
        return True


def cores() -> int:
    """The cores that this process may use: those that it is bound to, within its container's quota."""
    bound, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return bound if quota is None else min(bound, max(1, int(quota)))


def memory_bytes() -> int:
    """The memory that this process may use: the machine's, within its container's limit."""
    whole, limit = int(psutil.virtual_memory().total), memory_limit()
    return whole if limit is None else min(whole, limit)


@cache
def hardware() -> dict[str, Any]:
    """The machine: processor, cores, memory in GiB, GPUs, operating system."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": round(memory_bytes() / 2**30),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_model() -> str:
    """The model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def revision() -> dict[str, Any]:
    """The commit of the checkout and whether it has uncommitted changes; the release outside one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).resolve().parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        # Installed code may lie inside somebody else's checkout.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"release": version("paceline")}
