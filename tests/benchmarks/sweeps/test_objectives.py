"""What a sweep minimises, by hand: objectives, pruning, and the best of a study."""

import numpy as np
import optuna
import pytest

from paceline.benchmarks.sweeps.objectives import chosen, excess, is_dominated, lower_bounds, value
from paceline.benchmarks.trials.runner import Ended
from paceline.reports.measures.link import PRESETS


def ended(losses: list[float], prediction: float = 0.5) -> Ended:
    """A trial that evaluated once a second and sent 10 bytes between two evaluations."""
    curve = [
        {
            "validation_loss": loss,
            "train_seconds": i + 1.0,
            "compute_seconds": i + 0.5,
            "bytes_sent_per_worker": 10.0 * (i + 1),
            "messages_per_worker": i + 1.0,
        }
        for i, loss in enumerate(losses)
    ]
    ledger = [
        {
            "operation": "send",
            "phase": "train",
            "group_size": 2,
            "messages": len(losses),
            "payload_bytes": 10.0 * len(losses),
            "calls": len(losses),
        }
    ]
    record = {"result": {"ranks": [{"ledger": ledger}]}}
    predictions = {"model": np.array([prediction, prediction], np.float32)}
    return Ended("run", curve, None, "", {"final_loss": losses[-1]}, record, predictions)


def test_objectives_by_hand():
    link = PRESETS["ethernet-10g"]
    reached, missed = ended([3.0, 1.0, 2.0]), ended([3.0, 2.5])
    assert value("time_to_target_s", [reached], 1.0, link) == 2
    assert value("bytes_to_target", [reached], 1.0, link) == 20
    assert value("final_loss", [reached, missed], 1.0, link) == 2.25
    assert excess([reached], 1.0) == 0
    # Missed: what was spent, and by how much it was missed.
    assert value("time_to_target_s", [reached, missed], 1.0, link) == 2
    assert value("time_to_target_s", [missed], 2.0, link) == 2
    assert excess([reached, missed], 1.0) == 1.5
    # Two of its three messages, of 30 us and 10 bytes each, after 1.5 s of computing.
    modelled = value("modelled_time_to_target_s", [reached], 1.0, link)
    assert modelled == pytest.approx(1.5 + 2 * (30e-6 + 10 / 1.25e9))
    three = [ended([1.0], prediction) for prediction in (0.1, 0.2, 0.4)]
    assert value("churn", three, 1.0, link) == pytest.approx((0.1 + 0.2 + 0.3) / 3)


def frozen(values: list[float], missed_by: float = 0.0) -> optuna.trial.FrozenTrial:
    study = optuna.create_study(directions=["minimize"] * len(values))
    trial = study.ask()
    trial.set_constraint("target", missed_by)
    study.tell(trial, values)
    return study.trials[0]


def test_a_trial_is_hopeless_once_another_is_better_in_everything_that_it_has_spent():
    objectives = ["time_to_target_s", "bytes_to_target"]
    point = {"train_seconds": 3.0, "bytes_sent_per_worker": 30.0, "compute_seconds": 1.0}
    point["validation_loss"] = 3.0
    link = PRESETS["ethernet-10g"]
    bounds = lower_bounds(objectives, [point], [], 1, 1.0, link)
    assert bounds == [3, 30]
    # Of two seeds, the first took 2 s and 20 bytes. The mean is at least that of both so far.
    assert lower_bounds(objectives, [point], [ended([3.0, 1.0])], 2, 1.0, link) == [2.5, 25]
    assert lower_bounds(objectives, [point], [], 2, 1.0, link) == [1.5, 15]
    every = ["modelled_time_to_target_s", "churn", "final_loss"]
    assert lower_bounds(every, [point], [], 1, 1.0, link) == [1.0, 0.0, -np.inf]
    assert is_dominated(bounds, [frozen([9.0, 9.0]), frozen([2.0, 20.0])])
    assert not is_dominated(bounds, [frozen([2.0, 40.0]), frozen([4.0, 20.0])])
    assert not is_dominated(bounds, [frozen([2.0, 20.0], missed_by=0.1)])
    # Once the target is reached, later points cost nothing more.
    later = {name: 10 * value for name, value in point.items()}
    reached_before = [point | {"validation_loss": 1.0}, later]
    assert lower_bounds(objectives, reached_before, [], 1, 1.0, link) == [3, 30]
    # A loss has no bound before the end.
    with_loss = lower_bounds(["time_to_target_s", "final_loss"], [point], [], 1, 1.0, link)
    assert not is_dominated(with_loss, [frozen([1, 1])])


def test_the_best_meets_the_target_or_comes_nearest():
    assert chosen([]) is None
    slow, fast, missed, nearly = (
        frozen([5.0]),
        frozen([4.0]),
        frozen([1.0], 0.5),
        frozen([2.0], 0.1),
    )
    assert chosen([slow, fast, missed]) is fast
    assert chosen([missed, nearly]) is nearly
    cheap, balanced, quick = frozen([9.0, 1.0]), frozen([2.0, 2.0]), frozen([1.0, 9.0])
    assert chosen([cheap, balanced, quick]) is balanced
