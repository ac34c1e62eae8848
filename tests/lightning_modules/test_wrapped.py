"""Ordinary LightningModules under the algorithms, compared with tasks and with training by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import Plugin
from paceline.benchmarks.spec.suitable import prepared
from paceline.benchmarks.trials.dealing import stream
from paceline.datasets.batches import BatchOrder, collate
from paceline.lightning_modules import find_algorithms
from paceline.lightning_modules.backend import randomness
from paceline.lightning_modules.backend.launch import RankFailed
from paceline.lightning_modules.backend.precision import convert
from paceline.lightning_modules.backend.wrapped import wrapped
from tests.modules import ByEpoch, Hooked, Plain, pictures, sentences
from tests.ranks import Plan, run_ranks, train
from tests.workload import FEATURES, VALIDATION_ROWS, LinearRule, Rows, RowsDataset, draw, trial

STEPS, BATCH = 40, 6
NEEDS_LOSS = [name for name, cls in find_algorithms().items() if not cls.needs_logits]


def of(module: str, workers: int = 2, **changes: Any) -> Trial:
    return trial(workers, BATCH, STEPS, model=f"tests.modules:{module}", **changes)


def results(made: Trial) -> list[Any]:
    return run_ranks(made.workers, train, made, Plan())


def workers_of(algorithm: str) -> int:
    return 1 if algorithm == "baseline" else 2


class Tested(LinearRule):
    """The rule with a test part."""

    def test_dataloader(self) -> DataLoader[Rows]:
        return DataLoader(self.training(), collate_fn=lambda batch: batch)


class Pictures(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(pictures(100, 1))  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(pictures(40, 2))  # type: ignore[arg-type]


class Sentences(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(sentences(100, 1))  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(sentences(40, 2))  # type: ignore[arg-type]


def on(data: str, made: Trial) -> Trial:
    plugin = Plugin(f"tests.lightning_modules.test_wrapped:{data}", {})
    return replace(made, workload=replace(made.workload, data=plugin))


@pytest.mark.parametrize("algorithm", ["sync_sgd", "admm", "model_averaging"])
def test_a_module_trains_and_is_evaluated_as_the_same_task(algorithm: str) -> None:
    module = results(of("Plain", algorithm=algorithm))[0]
    task = results(trial(2, BATCH, STEPS, algorithm=algorithm))[0]
    np.testing.assert_array_equal(module["evaluated"], task["evaluated"])
    for mine, theirs in zip(module["points"], task["points"], strict=True):
        for name in ("train_loss", "validation_loss", "validation_metric"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-6)


@pytest.mark.parametrize("algorithm", NEEDS_LOSS)
@pytest.mark.parametrize(
    ("module", "data"), [("ResNet", "Pictures"), ("LanguageModel", "Sentences")], ids=str
)
def test_published_models_learn_unchanged(algorithm: str, module: str, data: str) -> None:
    made = on(data, of(module, workers_of(algorithm), algorithm=algorithm))
    points = results(made)[0]["points"]
    assert points[-1]["validation_loss"] < 0.95 * points[0]["validation_loss"] or (
        points[-1]["validation_loss"] < 0.45  # it was good at the first evaluation already
    )


def test_the_schedule_ends_with_training_and_steps_are_optimizer_steps() -> None:
    made = of("ByStep", 1, algorithm="baseline")
    task = trial(1, BATCH, STEPS, algorithm="baseline", model="tests.models:WarmedUp")
    assert results(made)[0]["steps"] == results(task)[0]["steps"] == STEPS
    whole = results(made)[0]["weights"]
    parts = results(replace(made, accumulate=2))[0]["weights"]
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-5)


def test_a_module_with_logits_runs_under_every_algorithm() -> None:
    for algorithm, cls in find_algorithms().items():
        if cls.needs_logits:
            assert results(of("ByStep", algorithm=algorithm))[0]["points"]


def test_a_schedule_by_epoch_follows_the_passes_over_the_data() -> None:
    found = results(of("ByEpoch", 1, algorithm="baseline", data={"rows": 60}))[0]["weights"]
    randomness.seed(stream(0, "initialisation"))
    module = ByEpoch(FEATURES)
    (optimizer,), (schedule,) = module.configure_optimizers()
    rows, order = draw(60, 1), BatchOrder(60, BATCH, stream(0, "order"))
    for step in range(STEPS):
        chosen = order.batch(step)
        optimizer.zero_grad()
        Plain.training_step(module, Rows(rows.x[chosen], rows.y[chosen]), 0).backward()
        optimizer.step()
        if (step + 1) % 10 == 0:  # 60 rows are 10 batches
            schedule.step()
    expected = torch.cat([p.detach().flatten() for p in module.parameters()]).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("module", ["Plain", "Tested", "Weighing"])
def test_the_validation_loss_is_the_same_on_any_number_of_workers(module: str) -> None:
    # One evaluation before any difference between the weights can arise: a rate of zero.
    found = [
        results(of(module, workers, lr=0.0))[0]["points"][-1]["validation_loss"]
        for workers in (1, 2, 3)
    ]
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-6)


def test_the_test_part_and_the_predictions_are_those_of_the_module() -> None:
    first = results(on("Tested", of("Tested")))[0]
    assert set(first["tested"]) == {"test_loss", "test_metric"}
    assert first["predictions"]["model"].shape == (VALIDATION_ROWS,)
    without = results(on("Tested", of("Plain")))[0]
    assert without["tested"] == {}
    assert without["predictions"] == {}
    np.testing.assert_array_equal(without["weights"], first["weights"])


def test_the_hooks_of_a_batch_are_called() -> None:
    hooked, plain = (results(of(name))[0] for name in ("Hooked", "Plain"))
    np.testing.assert_array_equal(hooked["weights"], plain["weights"])
    assert hooked["points"][-1]["validation_loss"] == plain["points"][-1]["validation_loss"]
    flipped = Hooked.on_before_batch_transfer(Hooked(FEATURES), draw(3, 1), 0)
    assert not torch.equal(flipped.y, draw(3, 1).y)


def test_a_module_that_draws_its_augmentation_is_checked_and_repeats_bitwise() -> None:
    made = on("Pictures", of("ResNet"))
    prepared([made])
    first, again = results(made), results(made)
    np.testing.assert_array_equal(again[0]["weights"], first[0]["weights"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_row_without_a_loss_is_named(workers: int) -> None:
    made = of("Plain", workers)
    drawn = Plugin("tests.models:Drawn", {"nan": [7, 30]})
    made = replace(made, workload=replace(made.workload, data=drawn))
    with pytest.raises(RankFailed, match="validation loss is NaN at row 7 of the validation"):
        results(made)


@pytest.mark.parametrize("name", ["val/accuracy", "val/recall"])
def test_every_metric_of_a_collection_starts_anew_at_each_evaluation(name: str) -> None:
    """The members of a group share their states."""
    made = of("Collected", metric=name)
    often, once = (results(trial_of)[0]["points"][-1] for trial_of in (made, at_the_end(made)))
    assert often["validation_metric"] == once["validation_metric"]


def at_the_end(made: Trial) -> Trial:
    budget = replace(made.workload.budget, evaluations=1)
    return replace(made, workload=replace(made.workload, budget=budget))


def test_a_metric_that_is_computed_in_a_step_does_not_hang_ranks_of_unequal_parts() -> None:
    made = of("Computing")
    data = Plugin("tests.lightning_modules.test_wrapped:SmallBatches", {})
    ranks = results(replace(made, workload=replace(made.workload, data=data)))
    assert ranks[0]["points"][-1]["validation_metric"] > 0


def test_predictions_of_shapes_that_differ_are_left_out_and_end_no_trial() -> None:
    made = of("Ragged")
    data = Plugin("tests.lightning_modules.test_wrapped:SmallBatches", {})
    ranks = results(replace(made, workload=replace(made.workload, data=data)))
    assert ranks[0]["predictions"] == {}
    assert ranks[0]["weights_sha256"]


def test_a_bfloat16_module_knows_its_dtype() -> None:
    assert results(replace(of("Plain"), precision="bf16"))[0]["points"]
    task = wrapped(Plain(FEATURES))
    convert(task, "bf16")
    assert task.module.dtype == torch.bfloat16


class SmallBatches(LinearRule):
    """The rule, evaluated on 51 rows in batches of 25: two ranks would have one and two of them."""

    evaluation_batch = 25

    def val_dataloader(self) -> DataLoader[Rows]:
        return DataLoader(RowsDataset(draw(51, 2)), collate_fn=collate)
