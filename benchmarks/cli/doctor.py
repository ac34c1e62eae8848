"""Checks that trials can run on this machine. Each check does what a trial would do."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from paceline.benchmarks.trials.addresses import masked
from paceline.benchmarks.trials.environment import hardware, versions
from paceline.benchmarks.trials.store import open_store
from paceline.home import home, make_ready
from paceline.lightning_modules.backend.launch import Ranks
from paceline.lightning_modules.backend.local_ranks import start_fork_server

LEAST_FREE_GIB = 5
Check = Callable[[], tuple[str, str | None]]
# The name of a check, what it found, and the remedy. The remedy is None if there is no problem.
Finding = tuple[str, str, str | None]


def run_checks(uri: str) -> Iterator[Finding]:
    """Yields the findings of all checks on this machine."""
    yield from _run(CHECKS | {"tracking": partial(_store, uri)})


def checks_here() -> list[Finding]:
    """Returns the findings of the checks on a node other than the first, which alone writes the store."""
    return list(_run(CHECKS))


def _run(checks: dict[str, Check]) -> Iterator[Finding]:
    for name, check in checks.items():
        try:
            yield name, *check()
        except Exception as error:  # a check that fails has found a problem
            lines = str(error).splitlines() or [""]
            yield name, masked(f"{type(error).__name__}: {lines[0]}"), "see the message"


def _versions() -> tuple[str, str | None]:
    return ", ".join(f"{k} {v}" for k, v in versions().items()), None


def _hardware() -> tuple[str, str | None]:
    found = hardware()
    gpus = ", ".join(found["gpus"]) or "no GPU"
    return f"{found['cores']} cores ({found['cpu']}), {found['memory_gib']} GiB, {gpus}", None


def all_reduce(report: Callable[[str, Any], None]) -> float:
    """Sums a one over all ranks."""
    torch.distributed.init_process_group("gloo")
    tensor = torch.ones(1)
    torch.distributed.all_reduce(tensor)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return tensor.item()


def _ranks() -> tuple[str, str | None]:
    make_ready()
    start_fork_server("paceline.lightning_modules.backend.strategy")
    with Ranks(2, all_reduce, log=Path(os.devnull)) as ranks:
        sums = {value for _, kind, value in ranks.messages(60) if kind == "result"}
    wrong = None if sums == {2.0} else "gloo does not reduce; check the loopback interface"
    return f"2 ranks all-reduce over gloo to {sums}", wrong


def _store(uri: str) -> tuple[str, str | None]:
    experiments = open_store(uri).search_experiments()
    return f"experiments: {len(experiments)}, in MLflow's store {masked(uri)}", None


def _disk() -> tuple[str, str | None]:
    free = shutil.disk_usage(home()).free / 2**30
    remedy = None if free >= LEAST_FREE_GIB else f"make room: caches need {LEAST_FREE_GIB} GiB"
    return f"{free:.0f} GiB free at {home()}", remedy


def _data() -> tuple[str, str | None]:
    folder = os.environ.get("PACELINE_DATA")
    if folder is None:
        return "PACELINE_DATA is not set: tests on real rows are skipped", None
    found = Path(folder).is_dir()
    return f"PACELINE_DATA={folder}", None if found else "point it at a folder that exists"


CHECKS: dict[str, Check] = {
    "versions": _versions,
    "hardware": _hardware,
    "ranks": _ranks,
    "disk": _disk,
    "data": _data,
}
