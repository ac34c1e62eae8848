"""Codistillation and its controls against independent runs and against their equations by hand."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from paceline.datasets.batches import BatchOrder
from paceline.datasets.partition import Partition
from paceline.lightning_modules.backend.launch import RankFailed
from paceline.lightning_modules.backend.state import State, groups, trained
from paceline.lightning_modules.codistillation import Codistillation
from tests.models import Frozen, Normalised
from tests.ranks import Plan, relative_distance, run_ranks, train
from tests.workload import LinearRule, Tower, trial

STEPS = 40


def results(workers: int, algorithm: str, kind: Any = "iid", **changes: Any) -> list[Any]:
    """What each rank of a trial with that partition returned."""
    described = trial(workers, 6, STEPS, algorithm=algorithm, partition=Partition(kind), **changes)
    return run_ranks(workers, train, described, Plan())


@pytest.mark.parametrize(
    ("workers", "ranks_per_replica", "kind"),
    [(2, 1, "shared"), (2, 1, "disjoint"), (4, 2, "shared"), (4, 1, "iid")],
)
def test_without_weight_it_is_independent_runs(
    workers: int, ranks_per_replica: int, kind: str
) -> None:
    replicas = {"ranks_per_replica": ranks_per_replica}
    weightless = {**replicas, "alpha": 0.0, "burn_in": 5, "period": 5}
    codistilled = results(workers, "codistillation", kind, hyper_parameters=weightless)
    independent = results(workers, "independent", kind, hyper_parameters=replicas)
    for rank in range(workers):
        assert np.array_equal(codistilled[rank]["weights"], independent[rank]["weights"])
    assert not np.array_equal(codistilled[0]["weights"], codistilled[-1]["weights"])
    assert not np.array_equal(codistilled[0]["initial"], codistilled[-1]["initial"])


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_independent_replica_is_the_synchronous_run_of_its_size(ranks: int) -> None:
    hyper = {"ranks_per_replica": ranks}
    replicas = results(2 * ranks, "independent", "shared", hyper_parameters=hyper, dropout=0.1)
    alone = results(ranks, "sync_sgd", "shared", dropout=0.1)
    for rank in range(ranks):
        assert np.array_equal(replicas[rank]["weights"], alone[rank]["weights"])


def by_hand(
    ranks: list[Any], kind: str, hyper: dict[str, Any], model: type[Tower] = Tower
) -> list[np.ndarray]:
    """Two replicas in one process, each towards the other's stale or fresh predictions."""
    dataset, burn_in = LinearRule().training(), hyper["burn_in"]
    towers = [model(LinearRule.features) for _ in ranks]
    teachers: list[Tower | None] = [None for _ in ranks]
    for tower, rank in zip(towers, ranks, strict=True):
        vector_to_parameters(torch.tensor(rank["initial"]), tower.parameters())
    order = BatchOrder(100, 6, ranks[0]["order_seed"])
    for step in range(1, STEPS + 1):
        gradients = []
        for i, tower in enumerate(towers):
            number = step - 1 if kind == "same" else 2 * (step - 1) + i
            batch = dataset.__getitems__(order.batch(number))
            logits = tower(batch)
            loss = tower.loss(logits, batch.y)
            fresh = hyper["teachers"] == "predictions" and step > burn_in
            teacher = towers[1 - i] if fresh else teachers[1 - i]
            if teacher is not None:
                with torch.no_grad():
                    target = torch.sigmoid(teacher(batch))
                loss = loss + hyper["alpha"] * tower.loss(logits, target)
            gradients.append(torch.autograd.grad(loss, trained(tower)))
        for tower, gradient in zip(towers, gradients, strict=True):
            with torch.no_grad():
                for parameter, change in zip(trained(tower), gradient, strict=True):
                    parameter -= 0.1 * change
        if hyper["teachers"] == "checkpoints" and step >= burn_in and step % hyper["period"] == 0:
            teachers = [deepcopy(tower).eval() for tower in towers]
    return [parameters_to_vector(tower.parameters()).detach().numpy() for tower in towers]


@pytest.mark.parametrize(("teachers", "kind"), [("checkpoints", "iid"), ("predictions", "same")])
def test_the_loss_is_that_of_the_paper(teachers: str, kind: str) -> None:
    hyper = {"alpha": 0.7, "burn_in": 9, "period": 6, "teachers": teachers}
    ranks = results(2, "codistillation", kind, hyper_parameters=hyper)
    for rank, expected in zip(ranks, by_hand(ranks, kind, hyper), strict=True):
        assert relative_distance(rank["weights"], expected) < 1e-5


@pytest.mark.parametrize("model", [Normalised, Frozen])
def test_a_teacher_has_the_statistics_and_the_frozen_layers_of_its_replica(
    model: type[Tower],
) -> None:
    hyper = {"alpha": 0.7, "burn_in": 9, "period": 6, "teachers": "checkpoints"}
    name = f"tests.models:{model.__name__}"
    ranks = results(2, "codistillation", hyper_parameters=hyper, model=name)
    for rank, expected in zip(ranks, by_hand(ranks, "iid", hyper, model), strict=True):
        assert relative_distance(rank["weights"], expected) < 1e-5


def test_a_teacher_is_the_mean_prediction_of_the_others() -> None:
    hyper = {"burn_in": 0, "period": 1, "alpha": 0.0}
    learner = Codistillation(Tower(LinearRule.features), **hyper)
    others = [Tower(LinearRule.features) for _ in range(3)]
    learner.checkpoints = [State.of(groups(t, "weights", "buffers")) for t in others]
    learner._teach(learner.checkpoints)
    batch = LinearRule().training().rows
    expected = torch.stack([torch.sigmoid(tower(batch)) for tower in others]).mean(dim=0)
    targets = learner._targets(batch, torch.zeros(100))
    assert targets is not None
    assert not targets.requires_grad
    torch.testing.assert_close(targets, expected)


def test_the_bytes_of_checkpoints_do_not_depend_on_the_batch_and_those_of_predictions_do() -> None:
    sent = {}
    for teachers, kind in (("checkpoints", "iid"), ("predictions", "same")):
        for batch_size in (6, 60):
            described = trial(
                2,
                batch_size,
                STEPS,
                algorithm="codistillation",
                partition=Partition(kind),  # type: ignore[arg-type]
                hyper_parameters={"burn_in": 0, "period": 10, "teachers": teachers},
            )
            rank = run_ranks(2, train, described, Plan())[0]
            sent[teachers, batch_size] = rank["points"][-1]["bytes_sent_per_worker"]
            assert sent[teachers, batch_size] >= rank["expected_bytes_per_worker"]
    assert sent["checkpoints", 6] == sent["checkpoints", 60]
    assert sent["predictions", 60] == 10 * sent["predictions", 6]


def test_predictions_on_different_batches_are_refused() -> None:
    hyper = {"burn_in": 0, "teachers": "predictions"}
    with pytest.raises(RankFailed, match=r"set partition\.kind to same"):
        results(2, "codistillation", "iid", hyper_parameters=hyper)


def test_the_ensemble_is_the_mean_prediction() -> None:
    ranks = results(2, "independent", "shared")
    rows = LinearRule().val_dataloader().dataset.rows  # type: ignore[attr-defined]
    predictions = []
    for rank in ranks:
        tower = Tower(LinearRule.features)
        vector_to_parameters(torch.tensor(rank["weights"]), tower.parameters())
        predictions.append(torch.sigmoid(tower(rows)).detach())
    losses = [torch.nn.functional.binary_cross_entropy(p, rows.y).item() for p in predictions]
    mean = torch.stack(predictions).mean(dim=0)
    last = ranks[0]["points"][-1]
    assert last["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    ensemble = torch.nn.functional.binary_cross_entropy(mean, rows.y).item()
    assert last["ensemble_loss"] == pytest.approx(ensemble, rel=1e-5)
    assert last["ensemble_metric"] == pytest.approx(((mean > 0.5) == rows.y).float().mean().item())


@pytest.mark.parametrize("towards", ["uniform", "marginal"])
def test_label_smoothing_follows_its_equation(towards: str) -> None:
    smoothed = results(1, "label_smoothing", hyper_parameters={"alpha": 0.4, "towards": towards})
    dataset, order = LinearRule().training(), BatchOrder(100, 6, smoothed[0]["order_seed"])
    tower = Tower(LinearRule.features)
    vector_to_parameters(torch.tensor(smoothed[0]["initial"]), tower.parameters())
    labels: list[torch.Tensor] = []
    for step in range(STEPS):
        batch = dataset.__getitems__(order.batch(step))
        labels.append(batch.y)
        constant = torch.cat(labels).mean() if towards == "marginal" else torch.tensor(0.5)
        logits = tower(batch)
        loss = tower.loss(logits, batch.y) + 0.4 * tower.loss(logits, constant.expand(6))
        for parameter, gradient in zip(
            tower.parameters(), torch.autograd.grad(loss, list(tower.parameters())), strict=True
        ):
            parameter.data -= 0.1 * gradient
    expected = parameters_to_vector(tower.parameters()).detach().numpy()
    assert relative_distance(smoothed[0]["weights"], expected) < 1e-5


def test_label_smoothing_without_weight_is_synchronous_sgd() -> None:
    smoothed = results(2, "label_smoothing", hyper_parameters={"alpha": 0.0})
    assert np.array_equal(smoothed[0]["weights"], results(2, "sync_sgd")[0]["weights"])


def test_label_smoothing_goes_on_with_the_marginal_of_each_rank(tmp_path: Path) -> None:
    hyper = {"alpha": 0.4, "towards": "marginal"}
    described = trial(2, 6, STEPS, algorithm="label_smoothing", hyper_parameters=hyper)
    run_ranks(2, train, described, Plan(save_to=tmp_path, save_at=7))
    resumed = run_ranks(2, train, described, Plan(resume_from=tmp_path))
    whole = run_ranks(2, train, described, Plan())
    assert np.array_equal(resumed[0]["weights"], whole[0]["weights"])
