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
    """The name of this process: its host, its number and when it began, so that no other has it."""
    me = psutil.Process()
    return f"{os.uname().nodename}/{me.pid}/{me.create_time():.2f}"


def is_gone(process: str) -> bool:
    """Whether a process of that name has ended; of those on other hosts nothing is known."""
    host, number, began = process.rsplit("/", 2)
    if host != os.uname().nodename:
        return False
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" != began
    except psutil.NoSuchProcess:
        return True


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


@cache
def hardware() -> dict[str, Any]:
    """The machine: processor, cores, memory in GiB, GPUs, operating system."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
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
