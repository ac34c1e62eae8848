"""A person's own model, from a Python file of theirs: what the file may be."""

from dataclasses import replace
from pathlib import Path

import pytest

from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.spec.settings import Sweep
from paceline.benchmarks.spec.suitable import data_fingerprint, description, prepared
from paceline.benchmarks.sweeps.plan import plans
from tests.own_workload import SMALL, TEXT, load
from tests.ranks import run_ranks


def test_the_example_has_fewer_than_60_lines() -> None:
    assert len(TEXT.splitlines()) < 60


def test_a_trial_is_another_when_the_file_changes(model_file) -> None:
    def identities() -> set[str]:
        return {trial.identity() for trial in load(model_file()).trials()}

    before = identities()
    assert identities() == before
    after = {trial.identity() for trial in load(model_file("nn.ReLU()", "nn.Tanh()")).trials()}
    assert not before & after


def test_every_field_can_be_overridden(model_file) -> None:
    benchmark = load(
        model_file(),
        "--scale.workers=[1,2]",
        "--workload.task.width=8",
        "--workload.target.loss=1.5",
    )
    assert benchmark.name == "my_model"
    assert benchmark.workload.task.arguments == {"width": 8, "lr": 0.5}
    assert benchmark.workload.target.loss == 1.5
    trials = {(trial.label, trial.workers) for trial in benchmark.trials()}
    assert {workers for label, workers in trials if label == "sync_sgd"} == {1, 2}
    assert {workers for label, workers in trials if label == "codistillation"} == {2}
    assert list(benchmark.left_out().values()) == [
        "algorithms.codistillation.workers: codistillation needs two replicas, and 1 workers form one"
    ]


def test_a_yaml_names_classes_of_a_file_too(model_file, tmp_path) -> None:
    task = model_file()
    data = task.replace("MyTask", "MyData")
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"workload: {{data: {{class: '{data}'}}, task: {{class: '{task}'}}, target: {{loss: 1}}}}\n"
        "algorithms: {sync_sgd: {}}\nscale: {workers: [2]}"
    )
    workload = load_benchmark(str(path), []).workload
    assert workload.task.source == workload.data.source == TEXT
    assert str(workload.data) == "my_model.py:MyData"


@pytest.mark.parametrize("override", ["--workload.target.loss=", "--workload.target.loss=null"])
def test_a_target_can_be_taken_away(model_file, override: str) -> None:
    assert load(model_file()).workload.target.loss == 0.4
    assert load(model_file(), override).workload.target.loss is None


def test_without_a_target_of_its_own_there_is_none_and_no_sweep_about_one(model_file) -> None:
    benchmark = load(
        model_file("target_loss", "other"),
        "--sweep.objectives=[bytes_to_target,churn]",
        "--sweep.tuning_seeds=[0,1]",
    )
    assert benchmark.workload.target.loss is None
    with pytest.raises(ConfigError) as error:
        plans(benchmark)
    assert str(error.value) == (
        "sweep.objectives: bytes_to_target needs a target; set workload.target.loss, or tune"
        " final_loss or churn"
    )
    assert plans(replace(benchmark, sweep=Sweep(objectives=["final_loss"])))[0]


def test_a_lightning_module_with_the_methods_of_a_task_is_one(model_file) -> None:
    text = model_file("from paceline import Task", "from pytorch_lightning import *")
    path = Path(text.rpartition(":")[0])
    path.write_text(path.read_text().replace("(Task)", "(LightningModule)"))
    trial = next(t for t in load(text, *SMALL).trials() if t.label == "codistillation")
    prepared([trial])
    from paceline.benchmarks.trials.rank import run_rank

    figures = run_ranks(2, run_rank, trial)
    assert figures[0]["steps"] == 40


def test_a_sweep_draws_for_the_text_that_was_read(model_file) -> None:
    task = model_file(
        "class MyTask(Task)", "class MyTask(nn.Module)"
    )  # which states no search space
    planned, left_out = plans(load(task, "--sweep.algorithms=[elastic_averaging]"))
    (plan,) = planned
    assert not left_out
    assert set(plan.space()) == {"tau", "beta", "ranks_per_replica"}
    trial = plan.trial({"tau": 3}, seed=1)
    assert trial.hyper_parameters["tau"] == 3
    assert trial.workload.task.cls().lr == 0.5


def test_types_that_are_not_written_down_are_taken_as_they_come(model_file) -> None:
    benchmark = load(
        model_file("width: int = 64, lr: float = 0.5", "width=64, lr=0.5"), "--workload.task.lr=0.1"
    )
    assert benchmark.workload.task.arguments == {"width": 64, "lr": 0.1}


def test_data_without_a_fingerprint_are_known_by_their_sizes(model_file) -> None:
    def known(*overrides: str) -> tuple[dict[str, object], str]:
        data = prepared(load(model_file(), *overrides).trials())
        return description(data), data_fingerprint(data)

    about, identity = known()
    assert about == {
        "name": "MyData",
        "synthetic": False,
        "train_rows": 1437,
        "validation_rows": 360,
    }
    assert known()[1] == identity
    assert known("--workload.data.rows=100")[1] != identity


def test_a_fingerprint_of_ones_own_counts(model_file) -> None:
    own = 'class MyData(LightningDataModule):\n    fingerprint = "v2"\n'
    data = prepared(load(model_file("class MyData(LightningDataModule):\n", own)).trials())
    assert data_fingerprint(data) == "v2"
