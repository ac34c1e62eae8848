"""What every test shares: the fork server's imports, and that no rank is left behind."""

import os
import sys
from collections.abc import Iterator

# Before DeepSpeed is imported anywhere.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Benchmarks of tests wait neither for one another nor for those that run on this machine.
os.environ["PACELINE_MACHINE"] = f"tests {os.getpid()}"

import pytest

from paceline.lightning_modules.backend import local_ranks
from tests.processes import ranks_alive


def pytest_configure(config: pytest.Config) -> None:
    """Starts the fork server, but not where `-n` leaves the tests to other processes."""
    if not getattr(config.option, "tx", None) or hasattr(config, "workerinput"):
        local_ranks.start_fork_server(
            "paceline.benchmarks.trials.rank", "tests.ranks", "tests.workload"
        )


@pytest.fixture(autouse=True)
def torch_computes_the_same_in_any_order() -> None:
    """Seeds torch, as pytest-randomly seeds only `random` and NumPy, and keeps it to one thread.

    The threads of a pool spin while they wait for one another, which takes 20 times as long where
    other processes want the cores.
    """
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_rank_outlives_its_test() -> Iterator[None]:
    yield
    assert not ranks_alive()
