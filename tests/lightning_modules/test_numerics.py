"""Schedules, precision, accumulation and clipping, compared with training by hand in one process."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.trials.dealing import stream
from paceline.datasets.batches import BatchOrder
from paceline.lightning_modules import find_algorithms
from paceline.lightning_modules.backend import randomness
from tests.models import WarmedUp
from tests.ranks import Plan, relative_distance, run_ranks, train
from tests.workload import FEATURES, LinearRule, Rows, Tower, draw, trial

STEPS, BATCH = 12, 6
NORM = 0.2  # less than the norm of most gradients here


def weights(made: Trial) -> Any:
    ranks = run_ranks(made.workers, train, made, Plan())
    for rank in ranks[1:]:
        np.testing.assert_array_equal(rank["evaluated"], ranks[0]["evaluated"])
    return ranks[0]["evaluated"]


def by_hand(model: type[Tower], step: Callable[[Any, Rows, Any], None]) -> Any:
    """The weights after `step` has been called with every batch of the baseline."""
    randomness.seed(stream(0, "initialisation"))
    task = model(FEATURES)
    optimizer = task.configure_optimizer(task.parameters())
    schedule = task.configure_schedule(optimizer, STEPS)
    rows = draw(LinearRule().rows, 1)
    order = BatchOrder(LinearRule().rows, BATCH, stream(0, "order"))
    for number in range(STEPS):
        chosen = order.batch(number)
        optimizer.zero_grad()
        step(task, Rows(rows.x[chosen], rows.y[chosen]), optimizer)
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return torch.cat([p.detach().flatten() for p in task.parameters()]).numpy()


def one(model: str = "tests.workload:Tower", **numerics: Any) -> Trial:
    return replace(trial(1, BATCH, STEPS, algorithm="baseline", model=model), **numerics)


def plain(task: Tower, batch: Rows, _: Any) -> None:
    task.loss(task(batch), batch.y).backward()


def clipped(task: Tower, batch: Rows, _: Any) -> None:
    plain(task, batch, _)
    clip_grad_norm_(task.parameters(), NORM)


def mixed(task: Tower, batch: Rows, _: Any) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = task(batch)
    task.loss(logits.float(), batch.y).backward()


def in_halves(task: Tower, batch: Rows, _: Any) -> None:
    for half in (slice(0, 3), slice(3, 6)):
        (task.loss(task(Rows(batch.x[half], batch.y[half])), batch.y[half]) / 2).backward()


@pytest.mark.parametrize(
    ("model", "numerics", "step"),
    [
        (WarmedUp, {}, plain),
        (Tower, {"clip_norm": NORM}, clipped),
        (Tower, {"precision": "bf16-mixed"}, mixed),
        (Tower, {"accumulate": 2}, in_halves),
    ],
    ids=["schedule", "clipping", "bf16-mixed", "accumulation"],
)
def test_the_baseline_is_training_by_hand(
    model: type[Tower], numerics: dict[str, Any], step: Callable[[Any, Rows, Any], None]
) -> None:
    found = weights(one(f"{model.__module__}:{model.__name__}", **numerics))
    if step is in_halves:  # rounded otherwise, because the rows of a part are stored otherwise
        assert relative_distance(found, by_hand(model, step)) < 1e-6
    else:
        np.testing.assert_array_equal(found, by_hand(model, step))
    if step in (clipped, mixed):
        assert relative_distance(found, by_hand(model, plain)) > 1e-4


EVERYTHING = {"precision": "bf16-mixed", "accumulate": 2, "clip_norm": NORM}


def test_downpour_with_one_worker_is_the_baseline_with_all_of_them() -> None:
    made = one("tests.models:WarmedUp", **EVERYTHING)
    np.testing.assert_array_equal(
        weights(replace(made, label="downpour", algorithm="downpour")), weights(made)
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_workers_are_one_with_all_of_them(stage: int) -> None:
    numerics = {"accumulate": 2, "clip_norm": NORM}
    whole = weights(replace(trial(1, 2 * BATCH, STEPS, model="tests.models:WarmedUp"), **numerics))
    made = trial(2, BATCH, STEPS, zero_stage=stage, model="tests.models:WarmedUp")
    assert relative_distance(weights(replace(made, **numerics)), whole) < 1e-5


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("numerics", [{"accumulate": 2}, {"clip_norm": NORM}], ids=str)
def test_the_bytes_are_those_that_are_expected(stage: int, numerics: dict[str, Any]) -> None:
    made = trial(2, BATCH, 40, zero_stage=stage, width=1000)
    ranks = run_ranks(2, train, replace(made, **numerics), Plan())
    sent = ranks[0]["points"][-1]["bytes_sent_per_worker"]
    assert sent == pytest.approx(
        ranks[0]["expected_bytes_per_worker"], rel=0.01 if stage < 3 else 0.2
    )


def test_a_whole_model_in_bfloat16_is_sent_in_half_the_bytes() -> None:
    ranks = [
        run_ranks(2, train, replace(trial(2, BATCH, STEPS), precision=precision), Plan())[0]
        for precision in (32, "bf16")
    ]
    sent = [rank["points"][-1]["bytes_sent_per_worker"] for rank in ranks]
    assert sent[1] == sent[0] / 2
    assert 0 < relative_distance(ranks[1]["evaluated"], ranks[0]["evaluated"]) < 0.05


def test_co_learning_multiplies_the_rates_of_the_schedule() -> None:
    made = trial(1, BATCH, STEPS, model="tests.models:WarmedUp", algorithm="model_averaging")
    found = weights(replace(made, hyper_parameters={"tau": 3, "lr_decay": 0.5}))
    taken = count()

    def decayed(task: Tower, batch: Rows, optimizer: Any) -> None:
        plain(task, batch, optimizer)
        # The schedule computes its rates from the first ones, so these do not reach the next step.
        for group in optimizer.param_groups:
            group["lr"] *= 0.5 ** (next(taken) // 2 % 3 / 3)

    assert relative_distance(found, by_hand(WarmedUp, decayed)) < 1e-6


@pytest.mark.parametrize("algorithm", [n for n in find_algorithms() if n != "baseline"])
def test_sparse_gradients_are_dense_ones(algorithm: str) -> None:
    workers = 1 if algorithm == "downpour" else 2  # Downpour on several is not repeatable
    found = []
    for sparse in (False, True):
        model = {"model": "tests.models:Embedding", "sparse": sparse}
        made = trial(workers, BATCH, STEPS, algorithm=algorithm, **model)
        ranks = run_ranks(workers, train, made, Plan())
        found.append((ranks[0]["evaluated"], ranks[0]["points"][-1]["bytes_sent_per_worker"]))
    (dense, dense_bytes), (sparse_weights, sparse_bytes) = found
    assert relative_distance(sparse_weights, dense) < 1e-6
    assert sparse_bytes == dense_bytes


def test_a_layer_used_in_one_part_of_a_batch_learns_on_any_number_of_workers() -> None:
    whole = replace(trial(1, 2 * BATCH, STEPS, model="tests.models:Conditional"), accumulate=2)
    parts = replace(trial(2, BATCH, STEPS, model="tests.models:Conditional"), accumulate=2)
    found = [run_ranks(made.workers, train, made, Plan())[0] for made in (whole, parts)]
    for rank in found:
        assert relative_distance(rank["evaluated"], rank["initial"]) > 1e-2
    # The rows of a part differ with the number of workers, so only its learning is compared.
    moved = [np.abs(rank["evaluated"] - rank["initial"])[-3:] for rank in found]
    assert all((part > 0).all() for part in moved)


def test_sparse_gradients_are_clipped() -> None:
    made = trial(1, BATCH, STEPS, algorithm="baseline", model="tests.models:Embedding", sparse=True)
    dense = trial(1, BATCH, STEPS, algorithm="baseline", model="tests.models:Embedding")
    found = [weights(replace(t, clip_norm=NORM)) for t in (made, dense)]
    np.testing.assert_allclose(*found, rtol=1e-6)
