"""Synchronous SGD against one worker, against torch's own data parallelism, and against itself."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from paceline.datasets.batches import BatchOrder
from paceline.lightning_modules.backend.ledger import engine_bytes
from tests.ranks import Plan, relative_distance, run_ranks, train
from tests.workload import LinearRule, Tower, optimizer_of, trial

pytestmark = pytest.mark.timeout(120)

STEPS = 50
EXAMPLES_PER_STEP = 12
LR = {"sgd": 0.1, "momentum": 0.05, "adagrad": 0.05, "adam": 0.01}


def data_parallel_by_hand(
    optimizer: str, initial: np.ndarray, order: int, report: Callable[[str, Any], None]
) -> np.ndarray:
    """A rank of torch's DistributedDataParallel in a plain loop, from the weights `initial`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    tower = Tower(LinearRule.features)
    torch.nn.utils.vector_to_parameters(torch.tensor(initial), tower.parameters())
    model = DistributedDataParallel(tower)
    steps = optimizer_of(optimizer, model.parameters(), LR[optimizer])
    dataset = LinearRule().training()
    part = slice(rank * EXAMPLES_PER_STEP // ranks, (rank + 1) * EXAMPLES_PER_STEP // ranks)
    batches = BatchOrder(len(dataset), EXAMPLES_PER_STEP, order)
    for step in range(STEPS):
        batch = dataset.__getitems__(batches.batch(step)[part])
        steps.zero_grad()
        tower.loss(model(batch), batch.y).backward()
        steps.step()
    weights = torch.nn.utils.parameters_to_vector(tower.parameters()).detach().numpy()
    # Were the model the last to hold the group, their end together could stand still for ever.
    del model
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return weights


def sync_sgd(workers: int, optimizer: str, zero_stage: int = 0, **changes: Any) -> Any:
    return trial(
        workers,
        EXAMPLES_PER_STEP // workers,
        STEPS,
        zero_stage=zero_stage,
        optimizer=optimizer,
        lr=LR[optimizer],
        **changes,
    )


@pytest.fixture(scope="module", params=[(2, "sgd"), (2, "adagrad"), (2, "adam"), (4, "momentum")])
def references(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The weights of one rank with the whole batch, and of DistributedDataParallel."""
    workers, optimizer = request.param
    (alone,) = run_ranks(1, train, sync_sgd(1, optimizer), Plan())
    by_hand = run_ranks(
        workers, data_parallel_by_hand, optimizer, alone["initial"], alone["order_seed"]
    )
    return {
        "workers": workers,
        "optimizer": optimizer,
        "one rank": alone["weights"],
        "DistributedDataParallel": by_hand[0],
    }


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_n_ranks_take_the_steps_of_one_rank_and_of_torch_data_parallelism(
    references: dict[str, Any], zero_stage: int
) -> None:
    workers = references["workers"]
    figures = run_ranks(
        workers, train, sync_sgd(workers, references["optimizer"], zero_stage), Plan()
    )
    weights = figures[0]["weights"]
    assert all(np.array_equal(rank["weights"], weights) for rank in figures)
    assert relative_distance(weights, figures[0]["initial"]) > 1e-2
    assert relative_distance(weights, references["one rank"]) < 1e-5
    assert relative_distance(weights, references["DistributedDataParallel"]) < 1e-5
    if zero_stage == 0 and workers == 2:
        # With more ranks, torch adds in another order in its first step, where it has one bucket.
        assert np.array_equal(weights, references["DistributedDataParallel"])


def test_the_same_seed_gives_bitwise_equal_weights_and_another_seed_others() -> None:
    first, again, other = (
        run_ranks(2, train, trial(2, steps=20, dropout=0.2, seed=seed), Plan())[0]
        for seed in (7, 7, 8)
    )
    assert np.array_equal(first["weights"], again["weights"])
    assert first["weights_sha256"] == again["weights_sha256"] != other["weights_sha256"]
    assert relative_distance(other["weights"], first["weights"]) > 1e-2


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("optimizer", "save_at"), [("adagrad", 13), ("adam", 13), ("momentum", 20)]
)
def test_a_resumed_trial_is_bitwise_the_uninterrupted_one(
    tmp_path: Path, optimizer: str, save_at: int, zero_stage: int
) -> None:
    # 100 rows at 12 a step: both steps lie inside an epoch; an evaluation falls due at step 20.
    whole = trial(
        2, 6, 30, evaluations=3, zero_stage=zero_stage, optimizer=optimizer, lr=0.05, dropout=0.2
    )
    uninterrupted = run_ranks(2, train, whole, Plan())
    interrupted = run_ranks(2, train, whole, Plan(save_to=tmp_path, save_at=save_at))
    resumed = run_ranks(2, train, whole, Plan(resume_from=tmp_path))
    assert not np.array_equal(interrupted[0]["weights"], uninterrupted[0]["weights"])
    for rank in range(2):
        assert np.array_equal(resumed[rank]["weights"], uninterrupted[rank]["weights"])
    evaluated = [point["step"] for point in resumed[0]["points"]]
    # The evaluation before the checkpoint is told again.
    assert evaluated == [step for step in (10, 20, 30) if step == 10 or step > save_at]
    last, expected = resumed[0]["points"][-1], uninterrupted[0]["points"][-1]
    assert last["train_loss"] == expected["train_loss"]
    assert last["validation_loss"] == expected["validation_loss"]


def test_a_checkpoint_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no checkpoint of replica_0"):
        run_ranks(1, train, trial(1, steps=4), Plan(resume_from=tmp_path))


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_bytes_measured_are_the_bytes_expected(workers: int, zero_stage: int) -> None:
    long = trial(workers, 2, 120, evaluations=1, zero_stage=zero_stage, width=1000)
    for figures in run_ranks(workers, train, long, Plan()):
        sent = sum(row["wire_bytes"] for row in figures["ledger"] if row["phase"] == "train")
        assert sent == pytest.approx(figures["expected_bytes_per_worker"], rel=0.01)
        assert figures["points"][-1]["bytes_sent_per_worker"] == pytest.approx(sent, rel=1e-3)


def test_one_worker_sends_nothing() -> None:
    (figures,) = run_ranks(1, train, trial(1, steps=4), Plan())
    assert figures["points"][-1]["messages_per_worker"] == 0
    assert figures["points"][-1]["bytes_sent_per_worker"] == 0
    assert figures["expected_bytes_per_worker"] == 0


@pytest.mark.parametrize(
    ("zero_stage", "backend", "expected"),
    [(0, "gloo", 1500), (1, "gloo", 2250), (2, "nccl", 2250), (3, "gloo", 2250), (3, "nccl", 1500)],
)
def test_expected_bytes_of_a_step_by_hand(zero_stage: int, backend: str, expected: int) -> None:
    assert engine_bytes(1000, ranks=4, zero_stage=zero_stage, backend=backend) == expected
