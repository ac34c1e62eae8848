"""What a sweep draws: spaces, scales, budgets, and mistakes in the section."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from paceline.benchmarks.spec.benchmark import Benchmark
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.sweeps.plan import StudyPlan, identity, plans
from paceline.lightning_modules import find_algorithms
from paceline.lightning_modules.backend.search import Choice, Integer
from tests.sweeps import BENCHMARK


@pytest.fixture
def benchmark_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(BENCHMARK)
    return path


@pytest.fixture
def small(benchmark_file: Path) -> Benchmark:
    return load_benchmark(str(benchmark_file), [])


def with_sweep(benchmark: Benchmark, **settings: Any) -> Benchmark:
    return replace(benchmark, sweep=replace(benchmark.sweep, **settings))


@pytest.mark.parametrize("name", find_algorithms())
def test_every_algorithm_states_dimensions_of_its_own_around_its_defaults(name, small):
    cls = find_algorithms()[name]
    own = {k: v.default for k, v in _parameters(cls).items() if k not in ("self", "task")}
    assert set(cls.search_space) <= set(own)
    for dimension, stated in cls.search_space.items():
        if isinstance(stated, Choice):
            assert own[dimension] in stated.values
        else:
            assert stated.low <= own[dimension] <= stated.high


def _parameters(cls: type) -> dict[str, Any]:
    return dict(inspect.signature(cls.__init__).parameters)


def test_a_study_draws_the_task_then_the_algorithm_and_begins_with_the_yaml(small):
    plan = StudyPlan(small, "model_averaging", (2,))
    assert list(plan.space()) == ["lr", "tau", "ranks_per_replica", "outer_lr", "outer_momentum"]
    assert plan.space()["ranks_per_replica"] == Choice((1,)), "two would be one replica alone"
    assert plan.queue() == [
        {"lr": 0.1, "tau": 5, "ranks_per_replica": 1, "outer_lr": 1.0, "outer_momentum": 0.0}
    ]


def test_a_space_is_widened_to_hold_the_value_of_the_yaml(small):
    entry = small.algorithms["model_averaging"] | {"tau": 1000, "ranks_per_replica": 3}
    plan = StudyPlan(
        replace(small, algorithms={"model_averaging": entry}), "model_averaging", (24,)
    )
    assert plan.space()["tau"] == Integer(1, 1000, log=True)
    assert plan.space()["ranks_per_replica"] == Choice((3, 1, 2, 4, 8))


def test_only_what_makes_a_trial_is_drawn(small):
    """On 4 workers a replica has 1 or 2 ranks. Two share the state of ZeRO; four would be alone."""
    plan = StudyPlan(with_sweep(small, zero_stages=[0, 1]), "model_averaging", (4,))
    seen = set()
    for number in range(60):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(number)).ask()
        drawn = plan.draw(trial)
        ranks, stage = drawn["ranks_per_replica"], drawn.get("zero_stage", 0)
        assert plan.trial(drawn, seed=0).layout.ranks == ranks
        seen.add((ranks, stage))
    assert seen == {(1, 0), (2, 0), (2, 1)}


def test_scale_is_a_dimension_like_any_other(small):
    settings = {"workers": [1, 2, 4], "pool_workers": True, "batch_sizes": [10, 20]}
    (plan, _), _ = plans(with_sweep(small, **settings))
    trials = set()
    for number in range(60):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(number)).ask()
        made = plan.trial(plan.draw(trial), seed=0)
        trials.add((made.workers, made.batch_size))
    assert trials == {(workers, size) for workers in (1, 2, 4) for size in (10, 20)}
    assert [configuration["workers"] for configuration in plan.queue()] == [1, 2, 4]


def test_seconds_bound_the_scale_by_the_machine_and_bytes_do_not(small):
    many = {"workers": [1, 1000]}
    timed, left_out = plans(with_sweep(small, objectives=["time_to_target_s"], **many))
    assert {plan.workers for plan in timed} == {(1,)}
    assert any("1000 workers: more than this machine has room for" in text for text in left_out)
    counted_in_bytes, _ = plans(with_sweep(small, objectives=["bytes_to_target"], **many))
    assert {plan.workers for plan in counted_in_bytes} == {(1,), (1000,)}


def test_a_larger_budget_goes_on_with_the_same_study(small):
    facts = {"code": "a"}
    larger = with_sweep(small, trials=99, seeds=[7], algorithms=["sync_sgd"])
    other = with_sweep(small, objectives=["bytes_to_target"])

    def name(benchmark: Benchmark) -> str:
        return StudyPlan(benchmark, "sync_sgd", (2,)).name(facts)

    assert name(larger) == name(small) != name(other)
    assert identity(larger, facts) == identity(small, facts) != identity(other, facts)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--sweep.seeds=[0,1]", r"sweep.seeds: \[0\] are tuned on; retrains need fresh seeds"),
        ("--sweep.objectives=[churn]", "churn needs two seeds to compare"),
        ("--sweep.objectives=[speed]", "sweep.objectives"),
        ("--sweep.trials=0", "must not be empty"),
        ("--sweep.trial=3", "did you mean '--sweep.trials'"),
    ],
)
def test_a_mistake_in_the_section_is_told_in_one_line(benchmark_file, override, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_benchmark(str(benchmark_file), [override])
    assert "\n" not in str(error.value)


def test_an_algorithm_or_a_dimension_that_there_is_not_is_named(small):
    with pytest.raises(ConfigError, match="no 'admm' in small; there are sync_sgd, model_averag"):
        plans(with_sweep(small, algorithms=["admm"]))
    with pytest.raises(ConfigError, match="draws 'taus'; did you mean 'tau'"):
        plans(with_sweep(small, only=["lr", "taus"]))
