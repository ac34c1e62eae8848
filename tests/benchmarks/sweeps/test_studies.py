"""Studies: who gets which trial."""

import os
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from paceline.benchmarks.sweeps.studies import PROCESS, Studies, counted, hand_out, queue, suggest
from paceline.benchmarks.trials.environment import this_process
from paceline.lightning_modules.backend.search import Choice, Real
from tests.processes import in_processes


def draw_x(trial: optuna.Trial) -> None:
    suggest(trial, "x", Choice((1, 2, 3)))


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(str(tmp_path / "studies.journal"))


def test_no_configuration_is_handed_out_twice_and_none_beyond_the_budget(studies):
    study = studies.study("s")
    queue(study, [{"x": 2}])
    queue(study, [{"x": 2}])
    drawn = []
    while trial := hand_out(study, 10, draw_x, "random"):
        drawn.append(trial.params["x"])
        study.tell(trial, 1.0)
    assert drawn[0] == 2, "what is queued comes first"
    assert sorted(drawn) == [1, 2, 3], "the space has three configurations"
    assert len(counted(study.trials)) == 3
    assert hand_out(study, 3, draw_x, "random") is None


def test_where_nothing_is_drawn_the_configuration_of_the_yaml_is_all(studies):
    study = studies.study("s")
    queue(study, [{}])
    study.tell(hand_out(study, 5, lambda _: None, "tpe"), 1.0)
    assert hand_out(study, 5, lambda _: None, "tpe") is None
    assert len(counted(study.trials)) == 1


def test_the_draws_are_the_same_whichever_process_asks(tmp_path):
    def three(name: str) -> list[float]:
        study = Studies(str(tmp_path / name)).study("same name")
        values = []
        for _ in range(3):
            trial = hand_out(study, 9, lambda t: suggest(t, "x", Real(0, 1)), "tpe")
            values.append(trial.params["x"])
            study.tell(trial, trial.params["x"])
        return values

    first = three("a")
    assert first == three("b")
    assert len(set(first)) == 3


def test_the_trial_of_a_process_that_is_gone_is_handed_out_again(studies):
    study = studies.study("s")
    lost = hand_out(study, 2, lambda t: suggest(t, "x", Real(0, 1)), "random")
    (gone,) = in_processes(1, this_process)
    lost.set_user_attr(PROCESS, gone)
    again = hand_out(study, 1, lambda t: suggest(t, "x", Real(0, 1)), "random")
    assert again.params == lost.params
    assert again.number != lost.number
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.RUNNING]
    assert [t.number for t in counted(study.trials)] == [again.number]


def test_the_running_trial_of_another_process_stays_with_it(studies):
    study = studies.study("s")
    theirs = hand_out(study, 2, lambda t: suggest(t, "x", Real(0, 1)), "random")
    theirs.set_user_attr(PROCESS, f"{os.uname().nodename}/{os.getppid()}/{_began(os.getppid())}")
    assert hand_out(study, 1, lambda t: suggest(t, "x", Real(0, 1)), "random") is None
    assert [t.state for t in study.trials] == [TrialState.RUNNING]


def _began(pid: int) -> str:
    return f"{psutil.Process(pid).create_time():.2f}"
