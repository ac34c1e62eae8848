"""Replicas in real processes: gradients are averaged inside of one, and checkpoints keep them all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from pytorch_lightning import Callback, Trainer

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.trials.rank import run_rank
from paceline.datasets.batches import BatchOrder
from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.sync_sgd import SyncSGD
from tests.ranks import Plan, run_ranks, train
from tests.workload import LinearRule, Tower, optimizer_of, trial

pytestmark = pytest.mark.timeout(120)
Report = Callable[[str, Any], None]


class IndependentReplicas(SyncSGD):
    """Replicas that never exchange anything."""

    def __init__(self, task: Any, replicas: int = 1) -> None:
        super().__init__(task)

    @classmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        replicas = hyper_parameters["replicas"]
        return Layout(replicas, workers // replicas)


@dataclass(frozen=True)
class ReplicaTrial(Trial):
    @property
    def algorithm_class(self) -> type[Algorithm]:
        return IndependentReplicas


def of_replicas(replicas: int, ranks: int, **changes: Any) -> ReplicaTrial:
    plain = trial(replicas * ranks, 4, 20, **changes)
    return ReplicaTrial(**{**vars(plain), "hyper_parameters": {"replicas": replicas}})


def trained_alone(figures: dict[str, Any], workers: int, ranks: list[int]) -> np.ndarray:
    """The weights after 20 steps of plain SGD on what `ranks` of `workers` see, 4 examples each."""
    tower = Tower(LinearRule.features)
    torch.nn.utils.vector_to_parameters(torch.tensor(figures["initial"]), tower.parameters())
    optimizer = optimizer_of("sgd", tower.parameters(), 0.1)
    dataset = LinearRule().training()
    order = BatchOrder(len(dataset), 4 * workers, figures["order_seed"])
    part = slice(4 * ranks[0], 4 * (ranks[-1] + 1))
    for step in range(20):
        batch = dataset.__getitems__(order.batch(step)[part])
        optimizer.zero_grad()
        tower.loss(tower(batch), batch.y).backward()
        optimizer.step()
    return torch.nn.utils.parameters_to_vector(tower.parameters()).detach().numpy()


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
@pytest.mark.parametrize(("replicas", "ranks"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_gradients_are_averaged_inside_a_replica_and_nowhere_else(
    replicas: int, ranks: int, zero_stage: int
) -> None:
    figures = run_ranks(
        replicas * ranks, train, of_replicas(replicas, ranks, zero_stage=zero_stage), Plan()
    )
    layout = Layout(replicas, ranks)
    for replica in range(replicas):
        members = layout.members(replica)
        expected = trained_alone(figures[0], layout.world_size, members)
        for rank in members:
            np.testing.assert_allclose(figures[rank]["weights"], expected, rtol=1e-5, atol=1e-6)
            assert np.array_equal(figures[rank]["weights"], figures[members[0]]["weights"])
    assert len({rank["weights_sha256"] for rank in figures}) == replicas


@pytest.mark.parametrize(("replicas", "ranks", "zero_stage"), [(4, 1, 0), (2, 2, 1), (2, 2, 3)])
def test_a_checkpoint_keeps_every_replica(
    tmp_path: Path, replicas: int, ranks: int, zero_stage: int
) -> None:
    whole = of_replicas(replicas, ranks, zero_stage=zero_stage, optimizer="momentum")
    workers = replicas * ranks
    saved = run_ranks(workers, train, whole, Plan(save_to=tmp_path, save_at=10))
    resumed = run_ranks(workers, train, whole, Plan(resume_from=tmp_path))
    uninterrupted = run_ranks(workers, train, whole, Plan())
    assert len({rank["weights_sha256"] for rank in saved}) == replicas
    for rank in range(workers):
        assert np.array_equal(resumed[rank]["initial"], saved[rank]["weights"])
        assert np.array_equal(resumed[rank]["weights"], uninterrupted[rank]["weights"])


class CountCollectives(Callback):
    """Counts the collectives of several ranks in training, whether the ledger sees them or not."""

    def __init__(self) -> None:
        self.calls = 0

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        for name in ("broadcast", "all_reduce", "barrier"):
            self._count(name, trainer)

    def _count(self, name: str, trainer: Trainer) -> None:
        collective = getattr(torch.distributed, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with_others = torch.distributed.get_world_size(kwargs.get("group")) > 1
            self.calls += trainer.training and with_others
            return collective(*args, **kwargs)

        setattr(torch.distributed, name, counted)


def count_collectives(trial: Trial, report: Report) -> int:
    count = CountCollectives()
    run_rank(trial, report, [count])
    return count.calls


def refusal(trial: Trial, report: Report) -> str:
    with pytest.raises(ValueError, match="does not fit") as refused:
        run_rank(trial, report)
    return str(refused.value)


def test_replicas_are_not_kept_in_step_by_a_collective_that_nobody_asked_for() -> None:
    apart = run_ranks(2, count_collectives, of_replicas(2, 1, evaluations=1))
    joined = run_ranks(2, count_collectives, of_replicas(1, 2, evaluations=1))
    steps = 20
    assert max(apart) < steps / 2  # what stands at the beginning and end of training
    assert min(joined) >= steps


@pytest.mark.parametrize(("replicas", "ranks"), [(2, 1), (2, 2)])
def test_a_layout_that_does_not_fit_the_world_is_refused_by_every_rank(
    replicas: int, ranks: int
) -> None:
    message = f"{replicas} replicas x {ranks} ranks does not fit a world of 3"
    assert run_ranks(3, refusal, of_replicas(replicas, ranks)) == [f"the layout of {message}"] * 3
