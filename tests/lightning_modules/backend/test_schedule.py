"""The learning rates of a schedule, with the factors that algorithms multiply them by."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from paceline.lightning_modules.backend.schedule import Schedule
from tests.workload import FEATURES, Tower

STEPS = 12
SCHEDULERS: dict[str, Callable[[Any], LRScheduler]] = {
    "from its own last rate": lambda optimizer: StepLR(optimizer, 3, gamma=0.5),
    "in closed form": lambda optimizer: OneCycleLR(optimizer, max_lr=1.0, total_steps=STEPS),
}


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.8, momentum=0.9)


def rate(schedule: Schedule) -> float:
    return float(schedule.optimizer.param_groups[0]["lr"])


def rates_of_torch(make: Callable[[Any], LRScheduler]) -> list[float]:
    """The rate of each step when torch alone advances the scheduler."""
    optimizer = sgd()
    scheduler, found = make(optimizer), []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", SCHEDULERS)
def test_factors_multiply_the_rates_and_do_not_change_the_schedule(name: str) -> None:
    optimizer = sgd()
    schedule = Schedule(optimizer, SCHEDULERS[name](optimizer), STEPS, factor=4.0)
    for step, expected in enumerate(rates_of_torch(SCHEDULERS[name])):
        schedule.scale(1 / (1 + step % 3))
        assert rate(schedule) == pytest.approx(4 * expected / (1 + step % 3), rel=1e-12)
        optimizer.step()
        schedule.advance(step + 1)


def test_an_epoch_may_be_a_fraction_of_steps() -> None:
    optimizer = sgd()
    schedule = Schedule(optimizer, StepLR(optimizer, 1, gamma=0.5), STEPS, interval=2.5)
    found = []
    for step in range(STEPS):
        found.append(rate(schedule))
        optimizer.step()
        schedule.advance(step + 1)
    # A pass over the data ends within steps 3, 5, 8 and 10.
    assert found == [0.8] * 3 + [0.4] * 2 + [0.2] * 3 + [0.1] * 2 + [0.05] * 2


def test_a_rank_that_takes_more_steps_keeps_the_last_rate() -> None:
    optimizer = sgd()
    schedule = Schedule(optimizer, SCHEDULERS["in closed form"](optimizer), STEPS)
    optimizer.step()
    schedule.advance(STEPS)
    last = rate(schedule)
    schedule.advance(STEPS + 3)  # OneCycleLR would raise an error
    assert rate(schedule) == last


@pytest.mark.parametrize("name", SCHEDULERS)
def test_it_goes_on_from_its_state(name: str) -> None:
    expected = rates_of_torch(SCHEDULERS[name])
    first, second = sgd(), sgd()
    before = Schedule(first, SCHEDULERS[name](first), STEPS, factor=2.0)
    first.step()
    before.advance(5)
    after = Schedule(second, SCHEDULERS[name](second), STEPS, factor=2.0)
    after.load_state_dict(before.state_dict())
    second.step()
    for step in range(5, STEPS):
        assert rate(after) == pytest.approx(2 * expected[step], rel=1e-12)
        after.advance(step + 1)


class Odd(Tower):
    def configure_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return [0.1] * steps


def test_what_is_no_scheduler_is_told() -> None:
    task = Odd(FEATURES)
    with pytest.raises(TypeError, match="a list is no LRScheduler"):
        Schedule.of(task, task.parameters(), STEPS, 1.0)


class Waiting(Tower):
    def configure_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return ReduceLROnPlateau(optimizer)


def test_a_scheduler_that_depends_on_a_metric_is_told() -> None:
    task = Waiting(FEATURES)
    with pytest.raises(
        ValueError, match="configure_schedule gives ReduceLROnPlateau, which depends"
    ):
        Schedule.of(task, task.parameters(), STEPS, 1.0)
