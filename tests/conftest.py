"""What every test shares: the fork server's imports, and that no rank is left behind."""

import os
from collections.abc import Iterator

# Before DeepSpeed is imported anywhere.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Benchmarks of tests wait neither for one another nor for those that run on this machine.
os.environ["PACELINE_MACHINE"] = f"tests {os.getpid()}"

import pytest

from paceline.lightning_modules.backend import launch
from tests.processes import ranks_alive

launch.start_fork_server("paceline.benchmarks.trials.rank", "tests.ranks", "tests.workload")


@pytest.fixture(autouse=True)
def no_rank_outlives_its_test() -> Iterator[None]:
    yield
    assert not ranks_alive()
