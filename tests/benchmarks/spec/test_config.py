"""What a benchmark's YAML and the command line may say, and what a mistake in them is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.spec.settings import Budget
from paceline.benchmarks.spec.shipped import shipped

YAML = """
workload:
  data: {class: "paceline.datasets.criteo:Criteo", hash_size: 64}
  task: {class: "paceline.lightning_modules.models.click_through:ClickThrough"}
  target: {loss: 0.5}
algorithms:
  baseline: {workers: [1]}
  wide: {algorithm: sync_sgd}
scale: {workers: [2, 4]}
"""


@pytest.fixture
def written(tmp_path: Path):
    def write(old: str = "", new: str = "") -> str:
        assert old in YAML
        path = tmp_path / "mine.yaml"
        path.write_text(YAML.replace(old, new, 1))
        return str(path)

    return write


def test_trials_are_every_algorithm_at_its_workers_and_every_seed(written):
    benchmark = load_benchmark(written(), ["--seeds=[0,1]"])
    cells = [(t.label, t.algorithm, t.workers, t.seed) for t in benchmark.trials()]
    one = [("baseline", "baseline", 1), ("wide", "sync_sgd", 2), ("wide", "sync_sgd", 4)]
    assert cells == [(*cell, seed) for seed in (0, 1) for cell in one]


def test_a_benchmark_is_named_after_its_file(written):
    assert load_benchmark(written(), []).name == "mine"


def test_any_field_is_overridden_on_the_command_line(written):
    benchmark = load_benchmark(
        written(),
        [
            "--workload.data.hash_size=32",
            "--workload.task.lr=0.5",
            "--workload.budget.examples=10",
            "--scale.zero_stage=2",
            "--algorithms.wide.workers=[8]",
        ],
    )
    assert benchmark.workload.data.arguments["hash_size"] == 32
    assert benchmark.workload.task.arguments["lr"] == 0.5
    assert benchmark.workload.budget.examples == 10
    assert benchmark.trials()[1].zero_stage == 2
    assert [t.workers for t in benchmark.trials()] == [1, 8]


def test_strong_scaling_divides_the_batch_and_weak_scaling_does_not(written):
    def batches(*overrides: str) -> list[int]:
        return [t.batch_size for t in load_benchmark(written(), list(overrides)).trials()]

    assert batches("--scale.batch_size=64") == [64, 64, 64]
    assert batches("--scale.batch_size=64", "--scale.scaling=strong") == [64, 32, 16]


def test_the_learning_rate_follows_the_examples_that_an_update_averages(written):
    more = "  downpour: {workers: [2]}\n  model_averaging: {workers: [4], ranks_per_replica: 2}\nscale:"
    path = written("scale:", more)

    def factors(*overrides: str) -> dict[tuple[str, int], float]:
        trials = load_benchmark(path, ["--scale.batch_size=64", *overrides]).trials()
        return {(trial.label, trial.workers): trial.lr_factor for trial in trials}

    weak = {("baseline", 1): 1, ("wide", 2): 2, ("wide", 4): 4}
    weak |= {("downpour", 2): 1, ("model_averaging", 4): 2}  # replicas take their updates apart
    assert set(factors().values()) == {1.0}
    assert factors("--scale.lr_rule=linear") == weak
    assert factors("--scale.lr_rule=sqrt") == {k: v**0.5 for k, v in weak.items()}
    strong = factors("--scale.lr_rule=linear", "--scale.scaling=strong")
    assert strong == {k: v / k[1] for k, v in weak.items()}


def test_a_partition_holds_for_all_but_the_algorithm_that_has_its_own(written):
    path = written("{algorithm: sync_sgd}", "{algorithm: sync_sgd, partition: {kind: shared}}")
    trials = load_benchmark(path, ["--partition.kind=dirichlet", "--partition.alpha=2"]).trials()
    kinds = [(t.label, t.workers, t.partition.kind) for t in trials]
    assert kinds == [("baseline", 1, "dirichlet"), ("wide", 2, "shared"), ("wide", 4, "shared")]
    assert trials[0].partition.alpha == 2


def test_an_algorithm_may_have_a_budget_of_its_own_for_the_rest_that_of_all(written):
    path = written("{algorithm: sync_sgd}", "{algorithm: sync_sgd, budget: {examples: 7}}")
    general = Budget(examples=5, epochs=3.0)
    changes = ["--workload.budget.examples=5", "--workload.budget.epochs=3"]

    def budgets(*overrides: str) -> list[Budget]:
        return [t.workload.budget for t in load_benchmark(path, [*changes, *overrides]).trials()]

    longer = replace(general, examples=7)
    assert budgets() == [general, longer, longer]
    longest = replace(general, examples=9, epochs=6.0)
    own = "--algorithms.wide.budget"
    assert budgets(f"{own}.examples=9", f"{own}.epochs=6") == [general, longest, longest]


def test_a_fault_is_of_the_trials_that_have_its_rank(written):
    trials = load_benchmark(written(), ["--fault.kind=kill", "--fault.rank=2"]).trials()
    assert [(t.workers, t.fault.kind) for t in trials] == [(1, "none"), (2, "none"), (4, "kill")]


def test_a_trial_is_another_when_anything_it_depends_on_changes(written):
    def identity(*overrides: str, **facts: str) -> str:
        return load_benchmark(written(), list(overrides)).trials()[0].identity(**facts)

    assert identity(code="a") == identity(code="a")
    others = {
        identity(code="a"),
        identity(code="b"),
        identity("--workload.task.lr=0.5", code="a"),
        identity("--seeds=[1]", code="a"),
        identity("--scale.threads=2", code="a"),
        identity("--partition.kind=same", code="a"),
        identity("--fault.kind=slow", code="a"),
    }
    assert len(others) == 7


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "hash_size",
            "hashsize",
            "unknown key 'workload.data.hashsize'; did you mean 'hash_size'?",
        ),
        ("scale", "scael", "unknown key 'scael'; did you mean 'scale'?"),
        ("64", "many", "workload.data.hash_size: Expected a int. Got value: many"),
        (
            "algorithm: sync_sgd",
            "algorithm: sync_sdg",
            "no algorithm 'sync_sdg'; did you mean 'sync_sgd'?; there are baseline, sync_sgd",
        ),
        ("{loss: 0.5}", "{loss: low}", "workload.target.loss: Expected a float. Got value: low"),
        ("{loss: 0.5}", "5", "workload.target is a mapping, not 5"),
        (
            "algorithm: sync_sgd",
            "algorithm: sync_sgd, budget: 5",
            "algorithms.wide.budget is a mapping, not 5",
        ),
        ("[2, 4]", "[]", "scale.workers is empty; give at least one number"),
        (
            'class: "paceline.datasets.criteo:Criteo", ',
            "",
            "workload.data.class is missing, a class as `module:Class`",
        ),
    ],
)
def test_a_mistake_in_the_yaml_is_named_with_its_file_and_key(written, old, new, message):
    path = written(old, new)
    with pytest.raises(ConfigError) as error:
        load_benchmark(path, [])
    text = str(error.value)
    assert text.startswith(f"{path}: {message.split(';')[0]}")
    if "there are" not in message:
        assert text == f"{path}: {message}"


def test_a_yaml_that_does_not_parse_is_one_line(written, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [")
    with pytest.raises(ConfigError) as error:
        load_benchmark(str(path), [])
    assert str(error.value).startswith(f"{path}: while parsing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--scale.wrokers=[1]", "unknown option --scale.wrokers; did you mean '--scale.workers'?"),
        (
            "--scale.zero_stag=1",
            "unknown option --scale.zero_stag; did you mean '--scale.zero_stage'?",
        ),
        ("--scale.workers=[a]", "scale.workers: Expected a int. Got value: a"),
        ("--scale.zero_stage=5", "scale.zero_stage: Expected a Literal[0, 1, 2, 3]. Got value: 5"),
        ("--workload.budget.epochs=0", "workload.budget.epochs must be positive, not 0.0"),
        (
            "--algorithms.wide.budget.epochs=0",
            "algorithms.wide.budget.epochs must be positive, not 0.0",
        ),
        (
            "--algorithms.wide.budget.examples=a",
            "algorithms.wide.budget.examples: Expected int. Got value: a",
        ),
        ("--partition.alpha=0", "partition.alpha must be positive, not 0.0"),
        ("--fault.factor=0.5", "fault.factor must be at least 1, not 0.5"),
        (
            "--fault.kind=die",
            "fault.kind: Expected a Literal['none', 'kill', 'raise', 'slow']. Got value: die",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_named(written, override, message):
    with pytest.raises(ConfigError) as error:
        load_benchmark(written(), [override])
    assert str(error.value).endswith(message)


def test_an_unknown_benchmark_gets_the_nearest_name():
    with pytest.raises(ConfigError) as error:
        load_benchmark("crieto", [])
    assert (
        str(error.value) == "no benchmark 'crieto'; did you mean 'criteo'?; `list` shows them all"
    )


def test_the_baseline_refuses_more_than_one_worker(written):
    benchmark = load_benchmark(written(), ["--algorithms.baseline.workers=[2]"])
    with pytest.raises(ConfigError) as error:
        benchmark.trials()
    assert (
        str(error.value) == "algorithms.baseline.workers: the baseline runs on 1 worker, not on 2"
    )


def test_a_batch_that_cannot_be_divided_is_refused(written):
    benchmark = load_benchmark(written(), ["--scale.scaling=strong", "--scale.batch_size=6"])
    with pytest.raises(ConfigError, match=r"6 examples cannot be divided among 4 workers"):
        benchmark.trials()


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_benchmark_loads(name):
    assert load_benchmark(name, []).trials()
