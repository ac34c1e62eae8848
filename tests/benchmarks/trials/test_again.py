"""Why finished trials run again, and what is told of it."""

from dataclasses import replace
from pathlib import Path

from paceline.benchmarks.trials.again import why_again
from paceline.benchmarks.trials.environment import changed
from paceline.benchmarks.trials.store import open_store
from tests.report_store import benchmark, fill


def test_what_has_changed_is_told_once_for_all_algorithms_with_the_same_reason(tmp_path: Path):
    client = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    plan = benchmark("again", {"baseline": [1], "sync_sgd": [2]}, [0, 1])
    fill(client, plan, lambda trial: [0.6, 0.4])
    assert list(why_again(plan.trials(), {}, client, "other")) == []
    larger = replace(plan, scale=replace(plan.scale, batch_size=20)).trials()
    assert list(why_again(larger, {}, client, "again")) == [
        "baseline, sync_sgd run again; changed since the last run: batch_size"
    ]
    own = [trial for trial in larger if trial.label == "sync_sgd"]
    facts = {"versions": {"torch": "3"}, "data": "b"}
    assert list(why_again(own, facts, client, "again")) == [
        "sync_sgd run again; changed since the last run: batch_size, versions: torch, data"
    ]


def test_nested_facts_have_names():
    before = {"code": {"a.py": "1", "b.py": "2"}, "data": "x"}
    now = {"code": {"a.py": "1", "b.py": "3", "c.py": "4"}, "data": "x"}
    assert changed(before, now) == {"code: b.py": ("2", "3"), "code: c.py": (None, "4")}
