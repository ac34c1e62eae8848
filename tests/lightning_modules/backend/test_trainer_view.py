"""What a LightningModule sees of the training: passes over the data, and not evaluations."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from paceline.lightning_modules.backend.trainer_view import TrainerView


def test_epochs_are_passes_over_the_data() -> None:
    view = TrainerView()
    view.plan(steps=40, epoch_steps=16.5)
    assert (view.estimated_stepping_batches, view.max_steps) == (40, 40)
    assert (view.max_epochs, view.num_training_batches) == (3, 16)
    found = []
    for step in (0, 16, 17, 33, 40):
        view.trainer = cast(Any, SimpleNamespace(global_step=step))
        found.append(view.current_epoch)
    assert found == [0, 0, 1, 2, 2]


def test_it_answers_as_one_rank_before_training_and_as_the_trainer_in_it() -> None:
    view = TrainerView()
    assert (view.global_step, view.training, view.world_size, view.is_global_zero) == (
        0,
        False,
        1,
        True,
    )
    view.trainer = cast(Any, SimpleNamespace(training=True, world_size=4, is_global_zero=False))
    assert (view.training, view.world_size, view.is_global_zero) == (True, 4, False)
    with pytest.raises(AttributeError, match=r"self\.trainer\.max_epochs is not available before"):
        _ = view.max_epochs
