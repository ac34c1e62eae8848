"""Partition, order and stream: which example goes to which rank at which step."""

from itertools import count

import numpy as np
import pytest

from paceline.benchmarks.spec.reading import load_benchmark
from paceline.datasets.batches import BatchOrder, BatchStream, TicketStream
from paceline.datasets.partition import Partition


def batches(stream: BatchStream, segments: int = 1) -> np.ndarray:
    """What the next segments of a stream yield, [steps, batch_size]."""
    return np.stack([batch for _ in range(segments) for batch in stream])


# Order


@pytest.mark.parametrize(("rows", "batch_size"), [(40, 5), (7, 3), (3, 5), (1, 1)])
def test_every_epoch_is_a_permutation_and_every_batch_is_full(rows: int, batch_size: int) -> None:
    order = BatchOrder(rows, batch_size, seed=1)
    seen = np.stack([order.batch(number) for number in range(4 * rows)])
    assert seen.shape == (4 * rows, batch_size)
    for epoch in seen.ravel()[: 4 * rows].reshape(4, rows):
        assert sorted(epoch) == list(range(rows))


def test_a_batch_does_not_depend_on_those_asked_for_before() -> None:
    forwards, anywhere = BatchOrder(17, 3, seed=5), BatchOrder(17, 3, seed=5)
    expected = [forwards.batch(number) for number in range(40)]
    for number in (39, 0, 7, 6, 30):
        assert np.array_equal(anywhere.batch(number), expected[number])


def test_the_epochs_differ_in_their_order() -> None:
    order = BatchOrder(40, 5, seed=1)
    first, second = np.stack([order.batch(n) for n in range(16)]).reshape(2, 40)
    assert not np.array_equal(first, second)


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    np.random.seed(0)
    first = BatchOrder(40, 40, seed=1).batch(0)
    np.random.seed(1)
    assert np.array_equal(first, BatchOrder(40, 40, seed=1).batch(0))
    assert not np.array_equal(first, BatchOrder(40, 40, seed=2).batch(0))


def test_an_order_keeps_to_its_rows() -> None:
    rows = np.array([3, 5, 8])
    assert sorted(BatchOrder(rows, 3, seed=1).batch(4)) == [3, 5, 8]


def test_an_empty_training_set_is_refused() -> None:
    with pytest.raises(ValueError, match="the training set is empty"):
        BatchOrder(0, 5)


# Streams


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize(("rows", "batch_size"), [(40, 5), (7, 3), (3, 5)])
def test_the_ranks_see_together_what_one_rank_with_their_whole_batch_sees(
    rows: int, batch_size: int, ranks: int
) -> None:
    order = BatchOrder(rows, batch_size, seed=1)
    parts = [batches(BatchStream(order, rank, ranks, every=6), 2) for rank in range(ranks)]
    alone = batches(BatchStream(BatchOrder(rows, ranks * batch_size, seed=1), every=12))
    assert np.array_equal(np.concatenate(parts, axis=1), alone)


@pytest.mark.parametrize("step", [0, 3, 10, 13, 30])
def test_a_stream_goes_on_as_if_never_interrupted(step: int) -> None:
    order = BatchOrder(17, 3, seed=5)
    whole = batches(BatchStream(order, 1, 2, every=10), 4)
    resumed = BatchStream(order, 1, 2, every=10)
    segment = resumed.go_on(step, evaluations=0)
    assert np.array_equal(batches(resumed, 4 - segment), whole[step:])


def test_ranks_that_run_free_take_every_batch_once_and_stop_at_the_same_evaluation() -> None:
    order, tickets = BatchOrder(1000, 2, seed=3), count()
    draw = lambda first: first + next(tickets)  # noqa: E731
    ranks = [TicketStream(order, draw, own=False, workers=3, every=10) for _ in range(3)]
    for segment in range(4):
        running = {rank: iter(stream) for rank, stream in enumerate(ranks)}
        taken: list[int] = []
        for turn in count():
            # Rank 0 is four times as fast as the others.
            for rank in list(running) if turn % 4 == 0 else [r for r in running if r == 0]:
                batch = next(running[rank], None)
                if batch is None:
                    del running[rank]
                else:
                    taken.extend(batch)
            if not running:
                break
        expected = np.concatenate([order.batch(n) for n in range(30 * segment, 30 * segment + 30)])
        assert sorted(taken) == sorted(expected)
    assert ranks[0].step > 2 * ranks[1].step
    assert sum(stream.step for stream in ranks) == 120


# Partitions

LABELS = np.repeat([0, 1, 2, 3], [10, 20, 30, 40])


@pytest.mark.parametrize("kind", ["disjoint", "labels", "dirichlet"])
@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_parts_cover_every_example_once(kind, replicas: int) -> None:
    parts = Partition(kind).parts(100, replicas, seed=1, labels=LABELS)
    assert len(parts) == replicas
    assert sorted(np.concatenate(parts)) == list(range(100))


@pytest.mark.parametrize("kind", ["iid", "shared", "same"])
def test_undivided_data_is_everybodys(kind) -> None:
    for part in Partition(kind).parts(100, 3, seed=1):
        assert np.array_equal(part, np.arange(100))


def test_disjoint_parts_are_random_and_of_equal_size() -> None:
    parts = Partition("disjoint").parts(101, 4, seed=1)
    assert sorted(map(len, parts)) == [25, 25, 25, 26]
    assert max(parts[0]) > 75
    assert not np.array_equal(parts[0], Partition("disjoint").parts(101, 4, seed=2)[0])


def test_label_shards_hold_few_labels() -> None:
    parts = Partition("labels", shards=2).parts(100, 5, seed=1, labels=LABELS)
    assert [len(part) for part in parts] == [20] * 5
    # A shard of ten of the sorted examples has one label here, so two shards have two at most.
    assert all(len(np.unique(LABELS[part])) <= 2 for part in parts)


@pytest.mark.parametrize(("alpha", "least", "most"), [(0.01, 0.9, 1.0), (1000.0, 0.0, 0.5)])
def test_alpha_says_how_far_a_label_belongs_to_one_replica(alpha, least, most) -> None:
    parts = Partition("dirichlet", alpha=alpha).parts(100, 3, seed=0, labels=LABELS)
    largest = [
        max(np.sum(LABELS[part] == label) for part in parts) / np.sum(label == LABELS)
        for label in range(4)
    ]
    assert least <= np.mean(largest) <= most


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="3 examples leave one of 4 replicas none"):
        Partition("disjoint").parts(3, 4, seed=1)
    with pytest.raises(ValueError, match="one label an example, not shape"):
        Partition("labels").parts(3, 2, seed=1, labels=np.zeros((3, 7)))
    with pytest.raises(ValueError, match=r"partition\.alpha must be positive, not 0"):
        Partition("dirichlet", alpha=0)


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
    overrides = [f"--algorithms.sync_sgd.workers=[{workers}]", "--workload.budget.examples=1000000"]
    trials = load_benchmark("criteo", overrides).trials()
    (trial,) = [trial for trial in trials if trial.label == "sync_sgd"]
    step_examples = trial.batch_size * trial.workers
    assert trial.workload.budget.schedule(rows, step_examples) == steps_and_interval
