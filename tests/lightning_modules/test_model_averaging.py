"""Model averaging against synchronous SGD, against its equations by hand, and against itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paceline.benchmarks.trials.dealing import stream
from paceline.datasets.batches import BatchOrder
from paceline.datasets.partition import Partition
from paceline.lightning_modules.model_averaging import ModelAveraging
from tests.ranks import Plan, relative_distance, run_ranks, train
from tests.workload import LinearRule, Tower, trial

pytestmark = pytest.mark.timeout(120)

STEPS = 40
EXAMPLES_PER_STEP = 12


def results(workers: int, plan: Plan | None = None, **changes: Any) -> list[Any]:
    """What each rank of a trial of model averaging, or of `algorithm`, returned."""
    settings: dict[str, Any] = {"algorithm": "model_averaging", "steps": STEPS} | changes
    settings.setdefault("batch_size", EXAMPLES_PER_STEP // workers)
    return run_ranks(workers, train, trial(workers, **settings), plan or Plan())


@pytest.fixture(scope="module")
def synchronous() -> np.ndarray:
    """The weights of synchronous SGD with the same examples at each step."""
    weights: np.ndarray = results(2, algorithm="sync_sgd")[0]["weights"]
    return weights


@pytest.mark.parametrize(
    ("workers", "ranks_per_replica", "zero_stage"),
    [(2, 1, 0), (4, 1, 0), (4, 2, 0), (4, 2, 1), (4, 2, 2), (2, 1, 1)],
)
def test_averaging_every_step_of_plain_sgd_is_synchronous_sgd(
    synchronous: np.ndarray, workers: int, ranks_per_replica: int, zero_stage: int
) -> None:
    hyper = {"tau": 1, "ranks_per_replica": ranks_per_replica}
    for rank in results(workers, zero_stage=zero_stage, hyper_parameters=hyper):
        assert relative_distance(rank["weights"], synchronous) < 1e-5


def by_hand(
    initial: np.ndarray, order: int, tau: int, lr: float, momentum: float, lr_decay: float = 1.0
) -> np.ndarray:
    """Two replicas in one process: local SGD, then the outer step of DiLoCo as in the paper."""
    dataset = LinearRule().training()
    half = EXAMPLES_PER_STEP // 2
    replicas, batches = [], BatchOrder(len(dataset), half, order)
    for _ in range(2):
        tower = Tower(LinearRule.features)
        torch.nn.utils.vector_to_parameters(torch.tensor(initial), tower.parameters())
        replicas.append(tower)
    outer, velocity = torch.tensor(initial), torch.zeros(len(initial))
    for step in range(1, STEPS + 1):
        for replica, tower in enumerate(replicas):
            batch = dataset.__getitems__(batches.batch(2 * (step - 1) + replica))
            gradients = torch.autograd.grad(
                tower.loss(tower(batch), batch.y), list(tower.parameters())
            )
            with torch.no_grad():
                for parameter, gradient in zip(tower.parameters(), gradients, strict=True):
                    parameter -= 0.1 * lr_decay ** ((step - 1) % tau / tau) * gradient
        if step % tau == 0:
            vectors = [torch.nn.utils.parameters_to_vector(t.parameters()) for t in replicas]
            gradient = outer - torch.stack(vectors).detach().mean(0)
            velocity = momentum * velocity + gradient
            outer = outer - lr * (gradient + momentum * velocity)
            for tower in replicas:
                torch.nn.utils.vector_to_parameters(outer.clone(), tower.parameters())
    return outer.numpy()


@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.0), (0.7, 0.9)])
def test_the_outer_step_follows_its_equations(lr: float, momentum: float) -> None:
    hyper = {"tau": 5, "outer_lr": lr, "outer_momentum": momentum}
    ranks = results(2, hyper_parameters=hyper)
    expected = by_hand(ranks[0]["initial"], ranks[0]["order_seed"], 5, lr, momentum)
    for rank in ranks:
        assert relative_distance(rank["weights"], expected) < 1e-5


def test_the_learning_rate_falls_in_a_round_and_starts_anew_in_the_next() -> None:
    ranks = results(2, hyper_parameters={"tau": 5, "lr_decay": 0.1})
    expected = by_hand(ranks[0]["initial"], ranks[0]["order_seed"], 5, 1.0, 0.0, lr_decay=0.1)
    assert relative_distance(ranks[0]["weights"], expected) < 1e-5


def test_rounds_grow_while_the_average_stands_still() -> None:
    """Every round counts as standing still here: exchanges after 5, 15 and 35 steps."""
    growing = results(2, hyper_parameters={"tau": 5, "epsilon": 1e9})[0]["points"][-1]
    assert growing["messages_per_worker"] == 3
    assert growing["tau"] == 40
    moving = results(2, hyper_parameters={"tau": 5, "epsilon": 1e-9})[0]["points"][-1]
    assert moving["messages_per_worker"] == STEPS / 5
    assert moving["tau"] == 5


def test_a_warm_up_is_synchronous(synchronous: np.ndarray) -> None:
    hyper = {"tau": 10, "warmup_steps": STEPS, "outer_lr": 0.5, "outer_momentum": 0.9}
    assert relative_distance(results(2, hyper_parameters=hyper)[0]["weights"], synchronous) < 1e-5
    hyper["warmup_steps"] = 13  # then after 23 and 33
    assert results(2, hyper_parameters=hyper)[0]["points"][-1]["messages_per_worker"] == 15


def test_a_period_in_local_epochs_is_one_in_steps() -> None:
    """100 rows on 2 disjoint parts of 50, 5 a step: an epoch is 10 steps, two are 20."""
    parts = {"batch_size": 5, "partition": Partition("disjoint")}
    epochs = results(2, hyper_parameters={"local_epochs": 2}, **parts)
    steps = results(2, hyper_parameters={"tau": 20}, **parts)
    assert epochs[0]["points"][-1]["messages_per_worker"] == 2
    assert np.array_equal(epochs[0]["weights"], steps[0]["weights"])


def test_the_average_is_weighted_by_examples() -> None:
    unequal = Partition("dirichlet", alpha=0.7)
    apart = results(2, hyper_parameters={"tau": STEPS + 1}, partition=unequal)
    together = results(2, hyper_parameters={"tau": STEPS}, partition=unequal)
    rows = LinearRule().training().rows
    parts = unequal.parts(100, 2, stream(0, "partition"), rows.y.numpy())
    assert len(parts[0]) != len(parts[1])
    expected = sum(
        len(part) / 100 * rank["weights"] for part, rank in zip(parts, apart, strict=True)
    )
    assert relative_distance(together[0]["weights"], np.asarray(expected)) < 1e-6


def test_replicas_drift_apart_between_exchanges_and_meet_at_one() -> None:
    apart = results(2, hyper_parameters={"tau": STEPS + 1})
    assert not np.array_equal(apart[0]["weights"], apart[1]["weights"])
    together = results(2, hyper_parameters={"tau": STEPS})
    assert np.array_equal(together[0]["weights"], together[1]["weights"])


def test_evaluating_the_average_leaves_the_replicas_as_they_were() -> None:
    hyper = {"tau": 7}
    often = results(2, evaluations=20, hyper_parameters=hyper)
    once = results(2, evaluations=1, hyper_parameters=hyper)
    for rank in range(2):
        assert np.array_equal(often[rank]["weights"], once[rank]["weights"])


def test_what_is_evaluated_and_hashed_is_the_same_on_every_rank() -> None:
    ranks = results(2, hyper_parameters={"tau": 7})
    assert ranks[0]["weights_sha256"] == ranks[1]["weights_sha256"]
    assert not np.array_equal(ranks[0]["weights"], ranks[1]["weights"])


@pytest.mark.parametrize(("ranks_per_replica", "zero_stage"), [(1, 0), (2, 0), (2, 1), (2, 2)])
def test_the_bytes_measured_are_the_bytes_expected(ranks_per_replica: int, zero_stage: int) -> None:
    hyper = {"tau": 8, "ranks_per_replica": ranks_per_replica}
    for rank in results(
        4, batch_size=2, evaluations=1, zero_stage=zero_stage, hyper_parameters=hyper, width=1000
    ):
        sent = rank["points"][-1]["bytes_sent_per_worker"]
        assert sent == pytest.approx(rank["expected_bytes_per_worker"], rel=0.01)


def test_traffic_falls_by_the_period() -> None:
    every_step = results(2, hyper_parameters={"tau": 1})[0]["points"][-1]
    every_tenth = results(2, hyper_parameters={"tau": 10})[0]["points"][-1]
    assert every_step["bytes_sent_per_worker"] == 10 * every_tenth["bytes_sent_per_worker"]


@pytest.mark.parametrize("save_at", [15, 20])
def test_a_resumed_trial_is_bitwise_the_uninterrupted_one(tmp_path: Path, save_at: int) -> None:
    hyper = {"tau": 10, "outer_lr": 0.7, "outer_momentum": 0.9}
    changes: dict[str, Any] = {"hyper_parameters": hyper, "optimizer": "adagrad"}
    whole = results(2, **changes)
    results(2, Plan(save_to=tmp_path, save_at=save_at), **changes)
    resumed = results(2, Plan(resume_from=tmp_path), **changes)
    for rank in range(2):
        assert np.array_equal(resumed[rank]["weights"], whole[rank]["weights"])


def test_replicas_that_do_not_fit_the_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="3 workers cannot form replicas of 2 ranks"):
        ModelAveraging.layout(3, ranks_per_replica=2)
    with pytest.raises(ValueError, match="tau must be at least 1 step, not 0"):
        ModelAveraging(Tower(LinearRule.features), tau=0)


def test_a_decayed_rate_does_not_become_the_base_rate_on_resuming(tmp_path: Path) -> None:
    hyper = {"tau": 8, "lr_decay": 0.25}
    decaying = trial(2, 6, 40, algorithm="model_averaging", hyper_parameters=hyper)
    run_ranks(2, train, decaying, Plan(save_to=tmp_path, save_at=13))
    resumed = run_ranks(2, train, decaying, Plan(resume_from=tmp_path))
    whole = run_ranks(2, train, decaying, Plan())
    assert np.array_equal(resumed[1]["weights"], whole[1]["weights"])


def test_tau_does_not_double_where_nothing_moves_and_epsilon_is_0() -> None:
    hyper = {"tau": 5, "epsilon": 0.0}
    still = trial(2, 6, 20, algorithm="model_averaging", hyper_parameters=hyper, lr=0.0)
    assert run_ranks(2, train, still, Plan())[0]["points"][-1]["tau"] == 5
