"""The batch stream: which example goes to which rank at which step."""

from itertools import islice

import numpy as np
import pytest

from benchmarks.config import load_benchmark
from benchmarks.trial import schedule
from datasets.partition import BatchStream


def steps(stream: BatchStream, count: int) -> np.ndarray:
    """The first `count` batches, [count, batch_size]."""
    return np.stack(list(islice(stream, count)))


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(("examples", "batch_size"), [(40, 5), (7, 3), (3, 5)])
def test_the_ranks_see_together_what_one_rank_with_their_whole_batch_sees(
    examples: int, batch_size: int, ranks: int
) -> None:
    parts = [steps(BatchStream(examples, batch_size, r, ranks, seed=1), 12) for r in range(ranks)]
    alone = steps(BatchStream(examples, ranks * batch_size, seed=1), 12)
    assert np.array_equal(np.concatenate(parts, axis=1), alone)


@pytest.mark.parametrize(("examples", "batch_size"), [(40, 5), (7, 3), (3, 5), (1, 1)])
def test_every_epoch_is_a_permutation_and_every_batch_is_full(
    examples: int, batch_size: int
) -> None:
    batches = steps(BatchStream(examples, batch_size, seed=1), 4 * examples)
    assert batches.shape == (4 * examples, batch_size)
    for epoch in batches.ravel()[: 4 * examples].reshape(4, examples):
        assert sorted(epoch) == list(range(examples))


def test_the_epochs_differ_in_their_order() -> None:
    first, second = steps(BatchStream(40, 5, seed=1), 16).reshape(2, 40)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("start_step", [0, 1, 7, 8, 30])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stream_begun_at_a_step_goes_on_as_if_never_interrupted(
    rank: int, start_step: int
) -> None:
    whole = steps(BatchStream(17, 3, rank, 2, seed=5), 40)
    rest = steps(BatchStream(17, 3, rank, 2, seed=5, start_step=start_step), 40 - start_step)
    assert np.array_equal(rest, whole[start_step:])


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    np.random.seed(0)
    first = steps(BatchStream(40, 5, seed=1), 16)
    np.random.seed(1)
    assert np.array_equal(first, steps(BatchStream(40, 5, seed=1), 16))
    assert not np.array_equal(first, steps(BatchStream(40, 5, seed=2), 16))


def test_an_empty_training_set_is_refused() -> None:
    with pytest.raises(ValueError, match="the training set is empty"):
        BatchStream(0, 5)


@pytest.mark.parametrize(
    ("rows", "workers", "steps_and_interval"),
    [
        (10**6, 1, (3900, 195)),  # 10^6 / 256 = 3906 steps, 20 evaluations
        (10**6, 4, (980, 49)),  # 10^6 / 1024 = 977 steps
        (6480, 1, (25, 1)),  # one epoch of 25 steps
        (7680, 1, (30, 2)),  # 15 evaluations of two steps rather than 20 steps or 40
        (6480, 4, (6, 1)),  # fewer steps than evaluations
        (10, 4, (1, 1)),  # less than a step
    ],
)
def test_a_budget_becomes_evenly_spaced_evaluations(
    rows: int, workers: int, steps_and_interval: tuple[int, int]
) -> None:
    overrides = [f"--algorithms.sync_sgd.workers=[{workers}]"]
    trials = load_benchmark("criteo", overrides).trials()
    (trial,) = [trial for trial in trials if trial.label == "sync_sgd"]
    assert schedule(trial, rows) == steps_and_interval
