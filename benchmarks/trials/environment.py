"""Facts on which a trial's figures depend besides its configuration: code, versions and hardware."""

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from paceline.benchmarks.trials.cgroups import cpu_quota, memory_limit

PACKAGES = ("torch", "pytorch-lightning", "deepspeed", "torchmetrics", "numpy", "mlflow")


def facts(fingerprint: str, code: dict[str, str]) -> dict[str, Any]:
    """Returns the facts in a trial's identity besides its configuration.

    Args:
        fingerprint: that of the data.
        code: the hashes of the files that the trials run.
    """
    computing = {name: version for name, version in versions().items() if name != "mlflow"}
    return {"code": code, "data": fingerprint, "versions": computing, "hardware": hardware()}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns both values of each fact that differs, by a name such as `versions: torch`.

    Facts may be nested.
    """
    then, there = _flat(before), _flat(now)
    return {
        name: (then.get(name), there.get(name))
        for name in then | there
        if then.get(name) != there.get(name)
    }


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}: {part}": own for part, own in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Returns what another node has that is not as here: files of code, the data, or packages.

    Args:
        ours: `code`, `versions` and perhaps `data`, as in `facts`, of this node.
        theirs: the same of the other node.
    """
    compared = ("code", "versions", "data")
    found = changed(*({name: facts.get(name) for name in compared} for facts in (ours, theirs)))
    return [
        f"{name.removeprefix('versions: ')} {there} instead of {here}"
        if name.startswith("versions: ")
        else name
        for name, (here, there) in found.items()
    ]


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages on which a figure may depend."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def this_process() -> str:
    """Returns the unique name of this process, see `process_name`."""
    return process_name(os.getpid())


def process_name(number: int) -> str:
    """Returns the unique name of a process of this host, `place/number/began`.

    The place consists of the host's name, the boot id of its kernel and the namespace of process ids,
    because two machines or two containers may have the same name. `began` is the start of the process in
    clock ticks after the boot. It does not change if the clock of the machine is set.

    Raises:
        OSError: if there is no such process.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    place = f"{os.uname().nodename} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    # The name of the program, in brackets, may contain anything. `began` is the 20th field after it.
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return f"{place}/{number}/{fields[19]}"


def is_gone(process: str) -> bool:
    """Returns whether the process of that name has ended. For processes in other places it is false."""
    place, number, _ = process.rsplit("/", 2)
    if place != this_process().rsplit("/", 2)[0]:
        return False
    try:
        return process_name(int(number)) != process
    except OSError:
        return True


def cores() -> int:
    """Returns the number of cores that this process may use.

    It is the number of cores that the process is bound to, but at most the quota of its container.
    """
    bound, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return bound if quota is None else min(bound, max(1, int(quota)))


def memory_bytes() -> int:
    """Returns the bytes of memory that this process may use: the machine's, or its container's limit."""
    whole, limit = int(psutil.virtual_memory().total), memory_limit()
    return whole if limit is None else min(whole, limit)


@cache
def hardware() -> dict[str, Any]:
    """Returns a description of the machine: processor, cores, memory in GiB, GPUs and system."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": round(memory_bytes() / 2**30),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_model() -> str:
    """Returns the model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def revision() -> dict[str, Any]:
    """Returns the commit of the checkout and whether it has uncommitted changes.

    Outside a checkout, it returns the release of the package.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).resolve().parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        # Installed code may be inside the checkout of another project.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"release": version("paceline")}
