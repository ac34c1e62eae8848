"""The table of results on the terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from paceline.benchmarks.cli.tables import table
from paceline.benchmarks.spec.settings import Target
from paceline.benchmarks.trials.store import open_store
from paceline.reports.measures.results import Results
from tests.report_store import benchmark, fill


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    folder: Path = tmp_path_factory.mktemp("tables")
    return open_store(f"sqlite:///{folder / 'mlflow.db'}")


def printed(results: Results) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(results))
    return console.export_text()


def test_a_remark_stands_beside_its_row_and_is_told_below(client: MlflowClient) -> None:
    plan = benchmark("silent [x]", {"baseline": [1], "sync_sgd": [2]}, [0])
    results = fill(
        client,
        plan,
        lambda _: [0.7, 0.45],
        own=lambda _, point: point | {"bytes_sent_per_worker": 0},
    )
    text = printed(results)
    assert "silent [x]: click log" in text
    assert "sync_sgd [1]" in text
    assert "baseline [1]" not in text
    assert "[1] exchanged nothing: no worker sent anything" in " ".join(text.split())
    assert {"best", "final", "loss"} <= set(text.replace("┃", " ").split())


def test_without_a_target_there_are_no_columns_for_one(client: MlflowClient) -> None:
    plan = benchmark("aimless", {"baseline": [1]}, [0])
    plan = replace(plan, workload=replace(plan.workload, target=Target()))
    assert "target" not in printed(fill(client, plan, lambda _: [0.7, 0.45]))
