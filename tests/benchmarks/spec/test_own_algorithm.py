"""An algorithm in a file of one's own."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from paceline.benchmarks.spec.benchmark import Benchmark, Trial
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.spec.settings import Sweep
from paceline.benchmarks.sweeps.plan import plans
from paceline.lightning_modules.backend.launch import RankFailed
from paceline.reports.text.facts import _hyper_parameters
from tests.own_workload import EXAMPLE, load
from tests.ranks import Plan, run_ranks, train

TEXT = '''"""Averages the weights at regular steps."""

from paceline import Algorithm, Integer


class Averaging(Algorithm):
    """Averages.

    Args:
        every: the number of steps between two averages.
    """

    name, title = "averaging", "an average of mine"
    search_space = {"every": Integer(1, 8)}
    rehearsal = {"every": 1}

    def __init__(self, task, every: int = 3):
        super().__init__(task)
        self.every = every

    def exchange(self, step):
        if step % self.every == 0:
            self.backend.load(self.mean_over_replicas(self.backend.state()))

    def evaluated_state(self):
        return self.mean_over_replicas(self.backend.state())
'''
SHORT = [
    "--workload.budget.examples=640",
    "--workload.budget.evaluations=2",
    "--scale.batch_size=16",
]


@pytest.fixture
def mine(tmp_path: Path) -> Callable[..., Benchmark]:
    """The example under the algorithm, with some of its text replaced, and under model averaging."""

    def benchmark(
        old: str = "", new: str = "", *overrides: str, name: str = "Averaging"
    ) -> Benchmark:
        assert old in TEXT
        path = tmp_path / "mine.py"
        path.write_text(TEXT.replace(old, new))
        chosen = f"--algorithms.mine.class={path}:{name}"
        whole = load(
            f"{EXAMPLE}:MyTask", chosen, "--algorithms.model_averaging.tau=4", *SHORT, *overrides
        )
        return whole.only(["mine", "model_averaging"])

    return benchmark


def test_it_trains_like_the_one_that_does_the_same(mine) -> None:
    shipped, own = mine("", "", "--algorithms.mine.every=4").trials()
    assert (own.label, own.algorithm, own.algorithm_class.title) == (
        "mine",
        "averaging",
        "an average of mine",
    )
    weights = [run_ranks(2, train, trial, Plan())[0]["evaluated"] for trial in (own, shipped)]
    np.testing.assert_allclose(*weights, rtol=1e-5, atol=1e-7)


def test_its_text_is_part_of_the_trial_and_of_the_record(mine, tmp_path: Path) -> None:
    trial = mine().trial("mine", 2, 0)
    assert Trial.from_record(asdict(trial)) == trial
    assert mine().trial("mine", 2, 0).identity() == trial.identity()
    assert mine("an average", "a mean").trial("mine", 2, 0).identity() != trial.identity()
    (tmp_path / "mine.py").unlink()
    assert trial.algorithm_class.title == "an average of mine"  # the text that was read


def test_a_yaml_names_it_and_a_sweep_tunes_it(mine, tmp_path: Path) -> None:
    mine()
    path = tmp_path / "benchmark.yaml"
    path.write_text(
        f"workload:\n  data: {{class: '{EXAMPLE}:MyData'}}\n  task: {{class: '{EXAMPLE}:MyTask'}}\n"
        f"scale: {{workers: [2]}}\nalgorithms:\n"
        f"  slow.average: {{class: '{tmp_path}/mine.py:Averaging', every: 8}}\n"
    )
    benchmark = load_benchmark(str(path), [])
    (trial,) = benchmark.trials()
    assert trial.hyper_parameters == {"every": 8}
    (plan,), _ = plans(replace(benchmark, sweep=Sweep(objectives=["final_loss"])))
    assert "every" in plan.space()


@pytest.mark.parametrize(
    ("old", "new", "name", "expected"),
    [
        ("", "", "Averagin", "mine.py has no class 'Averagin'; did you mean 'Averaging'?"),
        ("(Algorithm)", "", "Averaging", "mine.py:Averaging is no algorithm; derive it from"),
        (
            "name, title",
            "name, other",
            "Averaging",
            "mine.py:Averaging has no attribute 'title', a str",
        ),
        (
            "import Algorithm",
            "import Algorith",
            "Averaging",
            "mine.py cannot be loaded: ImportError: ",
        ),
    ],
)
def test_what_is_no_algorithm_is_one_line(
    mine, old: str, new: str, name: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        mine(old, new, name=name)
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)


def test_the_report_names_its_file_and_not_its_text(mine) -> None:
    entry = asdict(mine())["algorithms"]["mine"]
    assert _hyper_parameters(entry)["class"] == "mine.py:Averaging"


def test_an_error_in_it_is_that_of_a_rank(mine) -> None:
    broken = mine("if step % self.every == 0:", "if step % self.evry == 0:").trial("mine", 2, 0)
    with pytest.raises(RankFailed, match="no attribute 'evry'"):
        run_ranks(2, train, broken, Plan())
