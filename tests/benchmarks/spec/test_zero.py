"""Under which stages of ZeRO a person's own model runs, and what is told where it does not."""

from pathlib import Path

import pytest

from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.suitable import prepared
from paceline.benchmarks.trials.rank import run_rank
from tests.own_workload import SMALL, load
from tests.ranks import run_ranks


def left_out_under(stage: int, task: str) -> dict[str, str]:
    benchmark = load(task, f"--scale.zero_stage={stage}")
    return {label: reason for (label, _), reason in benchmark.left_out().items()}


def test_what_does_not_run_under_a_stage_of_zero_is_left_out_with_the_reason(model_file) -> None:
    assert not left_out_under(0, model_file())
    assert left_out_under(1, model_file()) == {
        "downpour": "algorithms.downpour: runs under ZeRO 0, and scale.zero_stage is 1"
    }
    whole = {"admm", "codistillation", "downpour", "elastic_averaging", "model_averaging"}
    assert set(left_out_under(3, model_file())) == whole


@pytest.mark.parametrize("stage", [1, 3])
def test_every_algorithm_runs_under_the_stages_of_zero_that_it_states(
    model_file, stage: int
) -> None:
    overrides = (f"--scale.zero_stage={stage}", "--workload.budget.evaluations=1")
    for trial in load(model_file(), *SMALL, *overrides).trials():
        run_ranks(trial.workers, run_rank, trial)


def test_an_optimizer_that_looks_at_tensors_is_refused_where_zero_cuts_them(model_file) -> None:
    for name in (
        "SGD(parameters, lr=0.1, momentum=0.9)",
        "Adagrad(parameters)",
        "AdamW(parameters)",
    ):
        task = model_file("SGD(parameters, lr=self.lr)", name)
        prepared(load(task, "--scale.zero_stage=1").trials())
    matrices = model_file(
        "10))", "10, bias=False)).requires_grad_(False); self.network[2].requires_grad_()"
    )
    path = Path(matrices.rpartition(":")[0])
    path.write_text(path.read_text().replace("SGD(parameters, lr=self.lr)", "Muon(parameters)"))
    prepared(load(matrices).trials())
    with pytest.raises(ConfigError) as error:
        prepared(load(matrices, "--scale.zero_stage=1").trials())
    assert str(error.value) == (
        "my_model.py:MyTask: Muon looks at whole tensors, and ZeRO 1 gives it parts of them in one"
        " vector; leave scale.zero_stage at 0"
    )


def test_a_model_of_another_dtype_is_refused_under_zero(model_file) -> None:
    task = model_file("nn.Linear(width, 10))", "nn.Linear(width, 10)).double()")
    prepared(load(task).trials())
    with pytest.raises(
        ConfigError, match=r"is float64, which ZeRO 1 would train in float32; leave"
    ):
        prepared(load(task, "--scale.zero_stage=1").trials())
