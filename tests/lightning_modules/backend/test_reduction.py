"""The reduction of gradients in real ranks: against torch's own, and where ranks differ."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import deepspeed
import pytest
import torch
import torch.distributed
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.trials.rank import run_rank
from paceline.lightning_modules.backend import private
from paceline.lightning_modules.backend.ledger import Ledger
from paceline.lightning_modules.backend.reduction import BUCKET_BYTES, Reduction
from tests.ranks import run_ranks
from tests.workload import draw, trial

pytestmark = pytest.mark.timeout(120)
Report = Callable[[str, Any], None]


@contextmanager
def among_ranks() -> Iterator[tuple[int, int, Ledger]]:
    """This rank, the number of ranks and a ledger that counts what this rank sends."""
    torch.set_num_threads(1)
    private.no_shared_memory_build()
    deepspeed.init_distributed("gloo", verbose=False)
    ledger = Ledger()
    ledger.attach(private.communication_backend())
    yield torch.distributed.get_rank(), torch.distributed.get_world_size(), ledger
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def reduction_of(model: nn.Module, ranks: int, bucket_bytes: int = BUCKET_BYTES) -> Reduction:
    return Reduction([*model.parameters()], None, ranks, bucket_bytes)


def tower(width: int = 32) -> nn.Sequential:
    layers = [nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def compare_with_torch(dtype: torch.dtype, bucket_bytes: int, report: Report) -> list[bool]:
    """Whether the gradients of each of five steps have the bits of DistributedDataParallel's."""
    with among_ranks() as (rank, ranks, _):
        torch.manual_seed(0)
        own = tower().to(dtype)
        other = deepcopy(own)
        # It learns the order of its buckets in its first step.
        torchs = DistributedDataParallel(other, bucket_cap_mb=bucket_bytes / 2**20)  # type: ignore[arg-type]
        torchs(torch.ones(1, 6, dtype=dtype)).sum().backward()
        reduction = reduction_of(own, ranks, bucket_bytes)
        optimizers = [torch.optim.SGD(model.parameters(), 0.5) for model in (own, other)]
        equal = []
        for step in range(5):
            x = draw(7, seed=10 * step + rank).x.to(dtype)
            for optimizer in optimizers:
                optimizer.zero_grad()
            own(x).square().mean().backward()
            reduction.finish()
            torchs(x).square().mean().backward()
            pairs = zip(own.parameters(), other.parameters(), strict=True)
            equal.append(all(torch.equal(a.grad, b.grad) and a.grad.any() for a, b in pairs))
            for optimizer in optimizers:
                optimizer.step()
        del torchs
    return equal


@pytest.mark.parametrize(
    ("ranks", "dtype", "bucket_bytes"),
    [
        (2, torch.float32, BUCKET_BYTES),
        (2, torch.float32, 1000),  # several buckets
        (3, torch.float32, 1000),
        (4, torch.float32, 1000),
        (4, torch.float64, BUCKET_BYTES),
        (4, torch.bfloat16, 1000),
    ],
)
def test_the_means_are_bitwise_those_of_torch(
    ranks: int, dtype: torch.dtype, bucket_bytes: int
) -> None:
    equal = run_ranks(ranks, compare_with_torch, dtype, bucket_bytes)
    assert equal == [[True] * 5] * ranks


class Parts(nn.Module):
    """Four vectors, of which a step uses some, in some order."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList([torch.zeros(3) for _ in range(4)])

    def forward(self, used: list[int], factor: float) -> Tensor:
        """Has the gradient `factor` (i + 1) for part i. Backward reaches the last used part first."""
        total = torch.zeros(())
        for i in used:
            total = total + factor * (i + 1) * self.parts[i].sum()
        return total


# The parts that each rank uses, by step.
STEPS = [([0, 1, 2, 3], [3, 2, 1, 0]), ([0, 2], [3, 2]), ([], [1]), ([1, 0, 3], [0, 3])]


def gradients_of_parts(report: Report) -> list[list[list[float]]]:
    with among_ranks() as (rank, ranks, _):
        model = Parts()
        reduction = reduction_of(model, ranks, bucket_bytes=1)  # a bucket for each part
        found = []
        for used in STEPS:
            model.zero_grad()
            if used[rank]:
                model(used[rank], rank + 1.0).backward()
            reduction.finish()
            found.append([part.grad.tolist() for part in model.parts])
    return found


def test_ranks_may_use_other_parameters_in_another_order() -> None:
    expected = [
        [[(i + 1) * ((i in first) + 2 * (i in second)) / 2] * 3 for i in range(4)]
        for first, second in STEPS
    ]
    assert run_ranks(2, gradients_of_parts) == [expected, expected]


def with_one_late(report: Report) -> dict[str, Any]:
    """A step in which rank 1 begins its backward half a second late."""
    with among_ranks() as (rank, ranks, ledger):
        torch.manual_seed(0)
        model = tower(width=500)
        reduction = reduction_of(model, ranks, bucket_bytes=1000)
        started = []
        # The first layer is the last that backward reaches.
        model[0].weight.register_hook(lambda _: started.append(ledger.sent("train")[0]))
        ledger.phase = "train"
        loss = model(torch.full((5, 6), rank + 1.0)).sum()
        time.sleep(0.5 * rank)
        loss.backward()
        called = ledger.seconds["train"]
        reduction.finish()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        return {
            "started": started,
            "called": called,
            "waited": ledger.seconds["train"] - called,
            "rows": ledger.rows(),
            "bytes": sum(p.nbytes for p in model.parameters()),
            "gradients": gradients.numpy(),
        }


def test_buckets_are_sent_beside_backward_and_the_wait_counts_as_sending() -> None:
    first, second = run_ranks(2, with_one_late)
    assert first["started"][0] >= 1
    assert first["called"] < 0.25 < first["waited"]
    assert (first["gradients"] == second["gradients"]).all()
    (row,) = first["rows"]
    assert (row["operation"], row["phase"], row["messages"]) == ("all_reduce", "train", 5)
    assert row["payload_bytes"] == row["wire_bytes"] == first["bytes"]


def alone(report: Report) -> dict[str, Any]:
    with among_ranks() as (_, ranks, ledger):
        model = Parts()
        reduction = reduction_of(model, ranks)
        model([0, 2], 1.0).backward()
        before = [part.grad for part in model.parts]
        reduction.finish()
        kept = [part.grad is own for part, own in zip(model.parts, before, strict=True)]
        values = [part.grad.tolist() for part in model.parts]
        return {"kept": kept, "values": values, "rows": ledger.rows()}


def test_one_rank_keeps_its_gradients_and_sends_nothing() -> None:
    (found,) = run_ranks(1, alone)
    assert found["kept"] == [True, False, True, False]
    assert found["values"] == [[1.0] * 3, [0.0] * 3, [3.0] * 3, [0.0] * 3]
    assert found["rows"] == []


def sparse_and_dense(report: Report) -> list[list[float]]:
    with among_ranks() as (rank, ranks, _):
        model = nn.Embedding(3, 2, sparse=True)
        reduction = reduction_of(model, ranks)
        model(torch.tensor([rank, rank, 1])).sum().backward()
        reduction.finish()
        return model.weight.grad.tolist()  # type: ignore[union-attr, no-any-return]


def test_sparse_gradients_become_dense() -> None:
    by_hand = [[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]]
    assert run_ranks(2, sparse_and_dense) == [by_hand, by_hand]


def twice(report: Report) -> str:
    with among_ranks() as (_, ranks, _):
        model = Parts()
        reduction = reduction_of(model, ranks)
        model([0], 1.0).backward()
        with pytest.raises(RuntimeError, match="two gradients in one step") as refused:
            model([0], 1.0).backward()
        reduction.finish()
        return str(refused.value)


def test_two_gradients_in_one_step_are_refused() -> None:
    (message, _) = run_ranks(2, twice)
    assert message.startswith("a parameter of shape (3,) received two gradients")


class Keep(Callback):
    """Keeps the algorithm."""

    def setup(self, trainer: Trainer, algorithm: LightningModule, stage: str) -> None:
        self.algorithm: Any = algorithm


def gradients_after_training(trial: Trial, report: Report) -> list[bool]:
    keep = Keep()
    run_rank(trial, report, [keep])
    task, batch = keep.algorithm.task, draw(5, 3)
    sums = []
    for _ in range(2):
        task.loss(task(batch), batch.y).backward()
        sums.append([p.grad.clone() for p in task.parameters()])
    return [bool(torch.equal(2 * once, both)) for once, both in zip(*sums, strict=True)]


def test_after_training_backward_is_torchs_own_again() -> None:
    assert run_ranks(2, gradients_after_training, trial(2, steps=4)) == [[True] * 4] * 2
