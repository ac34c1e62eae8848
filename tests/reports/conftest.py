"""Stores that the tests of the report share; none of them changes one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.style
import pytest
from mlflow.tracking import MlflowClient

from paceline.benchmarks.spec.settings import Target
from paceline.benchmarks.trials.store import open_store
from paceline.reports.figures import look
from paceline.reports.measures.results import Results
from tests.report_store import LONG, MARKUP, REAL, benchmark, fill, fill_every


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def client(folder: Path) -> MlflowClient:
    return open_store(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture(scope="session")
def whole(client: MlflowClient) -> Results:
    """Two seeds of everything; four workers share two cores."""
    plan = benchmark("whole", {"baseline": [1], "sync_sgd": [2, 4]}, [0, 1])
    return fill(client, plan, lambda trial: [0.7, 0.5 if trial.seed == 0 else 0.6, 0.45, 0.44])


@pytest.fixture(scope="session")
def partial(client: MlflowClient) -> Results:
    """Of three trials one finished, one failed on its way, and one was never started."""
    plan = benchmark("partial", {"baseline": [1], "sync_sgd": [2, 4]}, [0])
    failures = {4: f"rank 1: {MARKUP} in {LONG}"}
    return fill(client, plan, lambda _: [0.7, 0.6], REAL, failures, skipped=1)


@pytest.fixture(scope="session")
def dead(client: MlflowClient) -> Results:
    """The only trial failed before its first evaluation."""
    plan = benchmark("dead", {"sync_sgd": [2]}, [0])
    return fill(client, plan, lambda _: [], failures={2: "rank 0 died"})


@pytest.fixture(scope="session")
def every(client: MlflowClient) -> Results:
    return fill_every(client, "every")


@pytest.fixture(scope="session")
def aimless(client: MlflowClient) -> Results:
    """A workload without a target whose losses fall below zero; two seeds."""
    plan = benchmark("aimless", {"baseline": [1], "sync_sgd": [2]}, [0, 1])
    plan = replace(plan, workload=replace(plan.workload, target=Target()))
    return fill(client, plan, lambda trial: [0.1, -0.1 * trial.workers, -0.5 * trial.workers])


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with matplotlib.style.context(["default", look.STYLE]):
        yield
