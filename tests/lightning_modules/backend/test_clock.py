"""The clock: its phases, and what is not on it."""

import time

import torch

from paceline.lightning_modules.backend.clock import Clock
from tests.ranks import Plan, run_ranks, train
from tests.workload import trial


def test_the_clock_splits_time_into_phases_and_stands_while_stopped() -> None:
    clock = Clock(torch.device("cpu"))
    clock.enter("data")
    time.sleep(0.05)
    clock.enter("train")
    time.sleep(0.1)
    clock.stop()
    stopped = dict(clock.seconds)
    time.sleep(0.05)
    begin = time.perf_counter()
    clock.enter("data")
    clock.stop()
    again = time.perf_counter() - begin
    assert stopped["data"] >= 0.05
    assert stopped["train"] >= 0.1
    assert -1e-9 < clock.total - sum(stopped.values()) < again


def test_a_clock_that_stands_is_stopped_again_without_counting() -> None:
    clock = Clock(torch.device("cpu"))
    clock.enter("train")
    clock.stop()
    stopped = (clock.total, clock.cpu_seconds)
    sum(range(3_000_000))
    clock.stop()
    assert (clock.total, clock.cpu_seconds) == stopped


def test_evaluation_is_not_on_the_clock() -> None:
    begin = time.perf_counter()
    figures = run_ranks(2, train, trial(2, steps=4, evaluations=1, evaluation_pause_s=2.0), Plan())
    assert time.perf_counter() - begin > 2.0
    assert figures[0]["points"][-1]["train_seconds"] < 2.0


def test_waiting_for_data_is_booked_under_data() -> None:
    phases = run_ranks(2, train, trial(2, steps=10, data={"pause_s": 0.1}), Plan())[0]["phases"]
    assert phases["data"] >= 0.9  # the first batch is read before training starts
    assert phases["train"] < phases["data"]
