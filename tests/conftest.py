"""What every test shares: the fork server's imports, and that no rank is left behind."""

import os
from collections.abc import Iterator

# Before DeepSpeed is imported anywhere.
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import psutil
import pytest

from lightning_modules.backend import launch

launch.start_fork_server("benchmarks.trial", "tests.workload")


def ranks_alive() -> list[psutil.Process]:
    """The running ranks that this process started: the children of its fork server."""
    here = psutil.Process()
    return [
        process
        for process in here.children(recursive=True)
        if process.ppid() != here.pid and process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture(autouse=True)
def no_rank_outlives_its_test() -> Iterator[None]:
    yield
    assert not ranks_alive()
