"""Two runs compared: what differs, and verdicts on results made by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from paceline.benchmarks.cli.main import main
from paceline.benchmarks.spec.settings import Scale
from paceline.benchmarks.trials.store import open_store
from paceline.reports.measures.compare import FIGURES, SAME, alone, compare, differences, find
from paceline.reports.measures.link import DEFAULT
from paceline.reports.measures.results import NoResults, Results, parents
from tests.report_store import ENVIRONMENT, SYNTHETIC, benchmark, fill

ABOUT = {"name": "b", "benchmark": {}, "environment": ENVIRONMENT, "data": SYNTHETIC}


def run(
    speeds: dict[str, list[float]], about: dict[str, Any] = ABOUT, prefix: str = "", **more: Any
) -> Results:
    """Trials with so many examples/s by algorithm and seed, all else alike in all of them."""
    rows = [
        {
            "algorithm": algorithm,
            "workers": 2,
            "seed": seed,
            "status": "FINISHED" if rate > 0 else "FAILED",
            "run_id": f"{prefix}{algorithm} {seed}",
            "examples_per_s": rate,
            "time_to_target_s": 100 / rate if rate > 0 else math.nan,
            "steps_to_target": 50.0,
            "bytes_sent_per_worker": 1000.0,
            "final_loss": 0.4,
            **more,
        }
        for algorithm, rates in speeds.items()
        for seed, rate in enumerate(rates)
    ]
    return Results("", about, pd.DataFrame(rows), pd.DataFrame(), {}, {})


def verdicts(before: Results, after: Results) -> dict[tuple[str, str], str]:
    return {(one.algorithm, one.figure.title): one.verdict for one in compare(before, after)}


def test_what_is_faster_or_slower_is_called_so_and_what_is_equal_is_not() -> None:
    before = run({"a": [100.0, 101.0, 100.5], "b": [50.0, 50.4, 50.2]})
    after = run({"a": [80.0, 80.9, 80.3], "b": [50.1, 50.3, 50.2]}, prefix="new ")
    found = verdicts(before, after)
    assert found["a", "examples/s"] == "slower"
    assert found["a", "seconds to target"] == "slower"
    assert found["b", "examples/s"] == SAME
    assert found["a", "bytes sent per worker"] == found["a", "final loss"] == SAME
    back = verdicts(after, before)
    assert back["a", "examples/s"] == back["a", "seconds to target"] == "faster"


def test_each_figure_has_its_words() -> None:
    before = run({"a": [100.0, 101.0]})
    less = run({"a": [99.0, 102.0]}, prefix="new ", bytes_sent_per_worker=9.0, steps_to_target=40.0)
    less = replace(less, trials=less.trials.assign(final_loss=0.3))
    assert list(verdicts(before, less).values())[2:] == ["fewer", "fewer", "lower"]
    assert list(verdicts(less, before).values())[2:] == ["more", "more", "higher"]


def test_what_cannot_be_compared_says_why() -> None:
    before = run({"a": [100.0, 101.0], "b": [1.0], "c": [1.0, 2.0], "d": [1.0, 1.0]})
    after = run({"a": [100.0, 101.0], "b": [2.0], "c": [1.0, 0.0]}, prefix="new ")
    found = verdicts(before, after)
    assert found["b", "examples/s"] == "cannot be compared: one seed"
    assert found["c", "examples/s"] == "cannot be compared: no figure: seed 1"
    assert ("d", "examples/s") not in found
    assert alone(before, after) == [[("d", 2)], []]
    same = verdicts(before, before)["a", "examples/s"]
    assert same == "cannot be compared: both have the same trials"


@pytest.mark.parametrize(
    ("config", "data", "reason", "figures"),
    [
        ({"workload": {"target": {"loss": 1}}}, {}, "workload.target.loss", [1, 2]),
        ({"workload": {"budget": {"epochs": 1}}}, {}, "workload.budget.epochs", [1, 2, 3, 4]),
        ({"algorithms": {"a": {"budget": 1}}}, {}, "algorithms.a.budget", [1, 2, 3, 4]),
        ({"algorithms": {"b": {"budget": 1}}}, {}, "", []),
        ({"scale": {"batch_size": 2}}, {}, "", []),
        ({}, {"fingerprint": "other"}, "data.fingerprint", [1, 2, 4]),
    ],
)
def test_figures_presuppose_what_they_depend_on(
    config: Any, data: Any, reason: str, figures: list[int]
) -> None:
    about = ABOUT | {"benchmark": config, "data": SYNTHETIC | data}
    before = run({"a": [100.0, 101.0]})
    after = run({"a": [100.0, 101.0]}, about, "new ")
    lacking = [
        one.verdict == f"cannot be compared: {reason} differs" for one in compare(before, after)
    ]
    assert lacking == [i in figures for i in range(len(FIGURES))]


def noisy(rng: np.random.Generator, seeds: int, noise: float, slower: float, name: str) -> Results:
    speeds = {
        label: list(
            100 / (slower if label == "a" else 1.0) * np.exp(noise * rng.normal(size=seeds))
        )
        for label in "abcd"
    }
    made = run(speeds, prefix=name)
    losses = 0.4 * np.exp(0.01 * rng.normal(size=len(made.trials)))
    return replace(made, trials=made.trials.assign(final_loss=losses))


def test_verdicts_on_two_runs_that_are_alike_are_corrected_for_their_number() -> None:
    rng = np.random.default_rng(0)
    alarms = [
        any(v != SAME for v in verdicts(*(noisy(rng, 3, 0.02, 1.0, n) for n in "xy")).values())
        for _ in range(60)
    ]
    assert np.mean(alarms) < 0.12  # three in ten were it not for Holm's correction


def test_a_twentieth_slower_is_found_with_five_seeds() -> None:
    rng = np.random.default_rng(0)
    runs = [(noisy(rng, 5, 0.01, 1.0, "x"), noisy(rng, 5, 0.01, 1.05, "y")) for _ in range(20)]
    found = [verdicts(*both)["a", "examples/s"] == "slower" for both in runs]
    assert np.mean(found) >= 0.9


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('compare') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def runs(store: str) -> tuple[MlflowClient, list[Results]]:
    """Two configurations under one name, of which the second takes twice the time."""
    client = open_store(store)
    plan = benchmark("b", {"baseline": [1], "sync_sgd": [2]}, [0, 1, 2])

    def slow(_: Any, point: dict[str, float]) -> dict[str, float]:
        return point | {"train_seconds": 2 * point["train_seconds"]}

    old = fill(client, plan, lambda _: [0.6, 0.4])
    changed = replace(plan, scale=Scale([1], batch_size=20), seeds=[0, 1])
    return client, [old, fill(client, changed, lambda _: [0.6, 0.4], own=slow)]


def test_a_name_is_its_newest_run_and_old_runs_are_found_by_their_ids(
    runs: tuple[MlflowClient, list[Results]],
) -> None:
    client, (old, new) = runs
    assert find(client, "b", DEFAULT).run_id == new.run_id
    found = find(client, old.run_id, DEFAULT)
    assert found.run_id == old.run_id
    assert found.trials["run_id"].tolist() == old.trials["run_id"].tolist()
    assert [run.info.run_id for run in parents(client, "b")] == [new.run_id, old.run_id]
    for wrong in ("nowhere", old.trials["run_id"].iloc[0]):
        with pytest.raises(NoResults, match="neither a benchmark that was run nor the id"):
            find(client, wrong, DEFAULT)


def test_what_differs_is_told_by_name(runs: tuple[MlflowClient, list[Results]]) -> None:
    _, (old, new) = runs
    assert differences(old, new) == {"scale.batch_size": (10, 20), "seeds": ([0, 1, 2], [0, 1])}
    hardware = ENVIRONMENT["hardware"] | {"cpu": "another CPU"}
    moved = replace(
        new, benchmark=old.benchmark | {"environment": ENVIRONMENT | {"hardware": hardware}}
    )
    assert differences(old, moved) == {"hardware.cpu": ("a CPU", "another CPU")}
    records = {"r": {"facts": {"code": {"lightning_modules/admm.py": "abc"}}}}
    assert differences(old, replace(old, records=records)) == {
        "code.lightning_modules/admm.py": (None, "abc")
    }


def test_the_command_shows_differences_first_and_then_verdicts(
    runs: tuple[MlflowClient, list[Results]],
    store: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    _, (old, new) = runs
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--store", store, "compare", old.run_id, "b"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("scale.batch_size") < printed.index("after / before")
    assert "0.5 [0.5, 0.5]" in printed
    assert "2 [2, 2] (without seed 2)" in printed
    assert "slower" in printed
    assert main(["--store", store, "compare", new.run_id, "b"]) == 2
    told = capsys.readouterr().err
    assert f"both are run {new.run_id}; b has the runs {new.run_id}, {old.run_id}" in told
