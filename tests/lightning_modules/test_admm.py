"""Consensus ADMM against the centralised optimum as scikit-learn finds it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from paceline.datasets.batches import BatchOrder
from paceline.datasets.partition import Partition
from paceline.lightning_modules.admm import ConsensusADMM
from tests.models import Unused
from tests.ranks import Plan, relative_distance, run_ranks, train
from tests.workload import LinearRule, Rows, Tower, draw, trial

ROWS = 100
PENALTY = 0.02


def results(workers: int = 2, steps: int = 2000, evaluations: int = 20, **hyper: Any) -> list[Any]:
    """What each rank returned: full batches of a shard of its own, so that nothing is random."""
    convex = trial(
        workers,
        ROWS // workers,
        steps,
        evaluations,
        algorithm="admm",
        model="Logistic",
        lr=1.0,
        partition=Partition("disjoint"),
        hyper_parameters={"local_steps": 10, "rho": 0.2, "penalty_weight": PENALTY} | hyper,
    )
    return run_ranks(workers, train, convex, Plan())


def optimum(penalty: str) -> np.ndarray:
    """The minimiser of the mean log loss of all rows plus the penalty."""
    rows = draw(ROWS, 1)
    c = 1 / (PENALTY * ROWS)
    ratio = {"l1": 1.0, "l2": 0.0}[penalty]
    model = LogisticRegression(
        C=c, l1_ratio=ratio, fit_intercept=False, solver="saga", tol=1e-10, max_iter=100_000
    )
    weights: np.ndarray = model.fit(rows.x.numpy(), rows.y.numpy()).coef_[0]
    return weights


RHO, SHORT, BATCH, NORM = 0.5, 12, 6, 0.2


def by_hand(initial: np.ndarray, order: int, numerics: dict[str, Any]) -> Any:
    """The weights of one replica before its first exchange: the pull is a loss, and aims at the start."""
    tower = Tower(LinearRule.features)
    vector_to_parameters(torch.tensor(initial), tower.parameters())
    aims = [parameter.detach().clone() for parameter in tower.parameters()]
    optimizer = tower.configure_optimizer(tower.parameters())
    rows, batches = draw(100, 1), BatchOrder(100, BATCH, order)
    for number in range(SHORT):
        parts = np.split(batches.batch(number), numerics.get("accumulate", 1))
        optimizer.zero_grad()
        for part in parts:
            (
                tower.loss(tower(Rows(rows.x[part], rows.y[part])), rows.y[part]) / len(parts)
            ).backward()
        pairs = zip(tower.parameters(), aims, strict=True)
        torch.stack([RHO / 2 * (x - aim).square().sum() for x, aim in pairs]).sum().backward()
        if "clip_norm" in numerics:
            torch.nn.utils.clip_grad_norm_(tower.parameters(), numerics["clip_norm"])
        optimizer.step()
    return parameters_to_vector(tower.parameters()).detach().numpy()


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
@pytest.mark.parametrize(
    "numerics", [{}, {"clip_norm": NORM}, {"accumulate": 2}, {"accumulate": 3, "clip_norm": NORM}]
)
def test_the_pull_is_part_of_the_gradient(numerics: dict[str, Any], zero_stage: int) -> None:
    """Also of the gradient that is clipped, and once in a step, in however many parts its batch is."""
    made = trial(
        1, BATCH, SHORT, 1, algorithm="admm", hyper_parameters={"local_steps": 50, "rho": RHO}
    )
    (rank,) = run_ranks(1, train, replace(made, zero_stage=zero_stage, **numerics), Plan())
    expected = by_hand(rank["initial"], rank["order_seed"], numerics)
    assert relative_distance(rank["weights"], expected) < 1e-6


def test_weights_that_no_gradient_moves_stay_where_they_are() -> None:
    """Adagrad would make a whole step of a pull that is not exactly zero."""
    made = trial(
        1,
        BATCH,
        SHORT,
        1,
        algorithm="admm",
        hyper_parameters={"local_steps": 50, "rho": 0.3},
        model="tests.models:Unused",
    )
    (rank,) = run_ranks(1, train, made, Plan())
    unused = slice(Unused.SIZE)
    assert np.array_equal(rank["weights"][unused], rank["initial"][unused])
    assert not np.array_equal(rank["weights"], rank["initial"])


@pytest.mark.parametrize("penalty", ["l2", "l1"])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_it_finds_the_centralised_optimum(penalty: str, workers: int) -> None:
    ranks = results(workers, penalty=penalty)
    for rank in ranks:
        assert relative_distance(rank["evaluated"], optimum(penalty)) < 1e-3
    first, last = ranks[0]["points"][0], ranks[0]["points"][-1]
    for residual in ("primal_residual", "dual_residual"):
        assert last[residual] < 1e-3 * max(1e-4, first[residual]) + 1e-5


def test_it_stops_when_both_residuals_are_within_the_tolerance() -> None:
    ranks = results(penalty="l2", tolerance=1e-3)
    assert ranks[0]["steps"] < 2000
    sent = ranks[0]["points"][-1]["bytes_sent_per_worker"]
    assert sent == ranks[0]["expected_bytes_per_worker"]
    assert relative_distance(ranks[0]["evaluated"], optimum("l2")) < 1e-2
    assert len({rank["steps"] for rank in ranks}) == 1


def test_balancing_brings_a_far_too_small_rho_to_a_useful_one() -> None:
    fixed, balanced = (
        results(penalty="l2", rho=1e-3, adapt_rho=adapt, steps=500)[0] for adapt in (False, True)
    )
    assert balanced["points"][-1]["rho"] > 1e-3
    distances = [relative_distance(run["evaluated"], optimum("l2")) for run in (fixed, balanced)]
    assert distances[1] < distances[0]


def test_traffic_does_not_depend_on_the_local_steps() -> None:
    few, many = (results(steps=20 * local, local_steps=local)[0] for local in (2, 20))
    sent = [run["points"][-1]["bytes_sent_per_worker"] for run in (few, many)]
    assert sent[0] == sent[1] == few["expected_bytes_per_worker"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"local_steps": 0}, "local_steps must be at least 1"), ({"rho": 0}, "rho must be positive")],
)
def test_what_is_out_of_range_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConsensusADMM(Tower(LinearRule.features), **wrong)
