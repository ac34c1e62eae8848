"""Steps beside plain PyTorch: which are measured, how they are compared, and a run in real ranks."""

import numpy as np
import pytest

from paceline.benchmarks.meters import steps
from paceline.benchmarks.meters.steps import ratio, trials
from paceline.lightning_modules.backend.launch import Ranks


def test_the_ratio_is_that_of_the_medians() -> None:
    found = ratio([(2.0, 1.0), (4.0, 2.0), (60.0, 3.0)])
    assert found.value == 2.0
    assert found.low <= 2.0 <= found.high == 20.0


def test_load_that_affects_both_sides_alike_does_not_widen_the_interval() -> None:
    load = np.random.default_rng(0).uniform(1, 10, 50)
    found = ratio([(1.5 * seconds, seconds) for seconds in load])
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


def test_asynchronous_algorithms_are_measured_on_one_worker_only() -> None:
    one, two = ({trial.label for trial in trials(n, "small", 1)} for n in (1, 2))
    assert one == {"baseline", "downpour", "admm", "model_averaging"}
    assert two >= {"sync_sgd", "admm", "model_averaging", "codistillation", "label_smoothing"}
    assert "downpour" not in two


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("label", "workers"), [("baseline", 1), ("sync_sgd", 2)])
def test_every_block_has_steps_of_both(label: str, workers: int) -> None:
    (trial,) = (t for t in trials(workers, "small", blocks=2) if t.label == label)
    with Ranks(workers, steps.rank, trial) as ranks:
        found = {r: value for r, kind, value in ranks.messages(90) if kind == "result"}
    assert len(found) == workers
    for blocks in found.values():
        assert len(blocks) == 2
        # Neither side is empty: a step takes longer than 100 microseconds.
        assert min(map(min, blocks)) > 1e-4
