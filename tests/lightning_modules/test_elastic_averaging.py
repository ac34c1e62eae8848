"""Elastic averaging against its equations by hand, and against what it reduces to."""

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from paceline.datasets.batches import BatchOrder
from paceline.datasets.partition import Partition
from paceline.lightning_modules import elastic_averaging
from paceline.lightning_modules.elastic_averaging import ElasticAveraging
from tests import ROOT
from tests.ranks import Plan, relative_distance, run_ranks, train
from tests.workload import LinearRule, Tower, trial

pytestmark = pytest.mark.timeout(120)

STEPS, TAU, BATCH = 40, 10, 6


def results(algorithm: str = "elastic_averaging", workers: int = 2, **settings: Any) -> list[Any]:
    """What each rank of a trial returned, whose hyper-parameters are in `settings`."""
    steps = settings.pop("steps", STEPS)
    partition = settings.pop("partition", None)
    ranks = trial(
        workers,
        BATCH,
        steps,
        algorithm=algorithm,
        hyper_parameters=settings,
        partition=partition,
    )
    return run_ranks(workers, train, ranks, Plan())


class ByHand:
    """Two replicas in one process, with the batches of a trial."""

    def __init__(self, rank: dict[str, Any]) -> None:
        self.initial = torch.tensor(rank["initial"])
        self.dataset = LinearRule().training()
        self.batches = BatchOrder(len(self.dataset), BATCH, rank["order_seed"])

    def local_round(self, weights: Tensor, round_: int, replica: int) -> Tensor:
        """`weights` after the plain SGD of a replica in a round, counted from 0."""
        tower = Tower(LinearRule.features)
        vector_to_parameters(weights.clone(), tower.parameters())
        for step in range(TAU * round_, TAU * (round_ + 1)):
            batch = self.dataset.__getitems__(self.batches.batch(2 * step + replica))
            loss = tower.loss(tower(batch), batch.y)
            gradients = torch.autograd.grad(loss, list(tower.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(tower.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
        return parameters_to_vector(tower.parameters()).detach()


@pytest.mark.parametrize(("beta", "alpha"), [(0.9, None), (0.5, 0.2), (1.0, 1.0)])
def test_the_exchange_follows_the_equations(beta: float, alpha: float | None) -> None:
    ranks = results(tau=TAU, beta=beta, alpha=alpha)
    hand = ByHand(ranks[0])
    pull = beta / 2 if alpha is None else alpha
    centre, replicas = hand.initial, [hand.initial] * 2
    for round_ in range(STEPS // TAU):
        replicas = [hand.local_round(x, round_, i) for i, x in enumerate(replicas)]
        moved = centre + beta * sum(x - centre for x in replicas) / 2
        replicas = [x - pull * (x - centre) for x in replicas]
        centre = moved
    for rank, expected in zip(ranks, replicas, strict=True):
        assert relative_distance(rank["weights"], expected.numpy()) < 1e-5
        assert relative_distance(rank["evaluated"], centre.numpy()) < 1e-5


def test_with_alpha_and_beta_1_two_runs_of_model_averaging_take_turns() -> None:
    ranks = results(tau=TAU, beta=1.0, alpha=1.0)
    hand = ByHand(ranks[0])

    def averaged(*rounds: int) -> np.ndarray:
        weights = hand.initial
        for round_ in rounds:
            weights = (
                hand.local_round(weights, round_, 0) + hand.local_round(weights, round_, 1)
            ) / 2
        return weights.numpy()

    assert relative_distance(ranks[0]["evaluated"], averaged(1, 3)) < 1e-5
    assert relative_distance(ranks[0]["weights"], averaged(0, 2)) < 1e-5


@pytest.mark.parametrize("kind", ["iid", "labels"])
def test_with_beta_1_the_centre_is_the_average_of_the_replicas(kind: Any) -> None:
    partition = Partition(kind)
    elastic = results(tau=TAU, beta=1.0, steps=TAU, partition=partition)
    averaged = results("model_averaging", tau=TAU, steps=TAU, partition=partition)
    assert relative_distance(elastic[0]["evaluated"], averaged[0]["evaluated"]) < 1e-6
    assert relative_distance(elastic[0]["weights"], averaged[0]["weights"]) > 1e-3


def test_without_a_pull_replicas_are_independent_and_the_centre_stays() -> None:
    elastic, alone = results(tau=TAU, beta=0.0), results("independent")
    # Only the first of the independent replicas begins with the same weights.
    assert np.array_equal(elastic[0]["weights"], alone[0]["weights"])
    assert np.array_equal(elastic[0]["evaluated"], elastic[0]["initial"])
    assert not np.array_equal(elastic[0]["weights"], elastic[1]["weights"])


def test_the_ranks_of_a_replica_stay_together_and_all_ranks_know_the_centre() -> None:
    two = results(workers=4, tau=TAU, ranks_per_replica=2)
    assert np.array_equal(two[0]["weights"], two[1]["weights"])
    assert not np.array_equal(two[0]["weights"], two[2]["weights"])
    assert all(np.array_equal(rank["evaluated"], two[0]["evaluated"]) for rank in two)


def test_its_curve_holds_the_distance_from_the_centre() -> None:
    points = results(tau=TAU)[0]["points"]
    assert all(0.001 < point["replica_divergence"] < 1 for point in points)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"tau": 0}, "tau must be at least 1 step, not 0"),
        ({"beta": 1.5}, r"beta must be within \[0, 1\], not 1.5"),
        ({"alpha": -0.1}, r"alpha must be within \[0, 1\], not -0.1"),
    ],
)
def test_an_argument_out_of_range_is_named(argument: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        ElasticAveraging(Tower(LinearRule.features), **argument)


def test_the_walk_through_shows_the_code_of_the_file() -> None:
    page = (ROOT / "docs" / "new_algorithm.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 6
    code = "".join(inspect.getsource(elastic_averaging).split())
    assert all("".join(block.split()) in code for block in blocks)
