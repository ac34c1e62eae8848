"""Checks the optimizer of a task: the parameters that it steps on, and whether it works under ZeRO."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from paceline.benchmarks.spec.plugin import ConfigError, Plugin
from paceline.lightning_modules.backend.schedule import Schedule
from paceline.lightning_modules.backend.state import trained
from paceline.lightning_modules.backend.task import Task


def check_optimized(
    plugin: Plugin, model: nn.Module, optimizer: torch.optim.Optimizer, call: str
) -> None:
    """Checks that the optimizer steps on exactly the parameters that are trained.

    Args:
        plugin: the class of the model.
        model: the model.
        optimizer: the optimizer.
        call: the name of the method that has returned it.

    Raises:
        ConfigError: if it leaves out a trained parameter or steps on another tensor.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    given = set(trained(model))
    stepped = {p for group in optimizer.param_groups for p in group["params"]}
    place = f"{plugin}: the optimizer of {call}"
    if missing := [name for p, name in names.items() if p in given - stepped]:
        raise ConfigError(
            f"{place} does not step on {', '.join(missing)}; put them into a group, or set requires_grad"
            " to False"
        )
    if strange := stepped - given:
        own = sorted(names[p] for p in strange if p in names) or ["tensors of another model"]
        raise ConfigError(f"{place} steps on what it was not given: {', '.join(own)}")


def check_under_zero(
    plugin: Plugin, task: Task, stage: int, steps: int, epoch_steps: float
) -> None:
    """Checks that training under ZeRO gives the same model as training without it.

    ZeRO 1 to 3 step on float32 copies of the parameters, with one flat vector for each parameter group.
    An optimizer that looks at whole tensors, such as Muon, LARS or LAMB, takes a different step on such a
    vector.

    Raises:
        ConfigError: if the parameters are not float32, or if the optimizer takes a different step.
    """
    dtype = str(trained(task)[0].dtype).removeprefix("torch.")
    if dtype != "float32":
        raise ConfigError(
            f"{plugin} is {dtype}, which ZeRO {stage} would train in float32; leave scale.zero_stage at 0"
        )
    whole, flat = deepcopy(task), deepcopy(task)
    optimizer = Schedule.of(whole, _with_gradients(whole), steps, epoch_steps).optimizer
    flattened = Schedule.of(flat, _with_gradients(flat), steps, epoch_steps).optimizer
    vectors = [_flatten(flattened, group) for group in flattened.param_groups]
    optimizer.step()
    try:
        flattened.step()
        alike = all(
            torch.allclose(torch.cat([p.flatten() for p in stepped["params"]]), vector, 1e-4, 1e-6)
            for stepped, vector in zip(optimizer.param_groups, vectors, strict=True)
        )
    except (ValueError, RuntimeError, IndexError):
        alike = False  # for example, an optimizer that accepts only matrices
    if not alike:
        raise ConfigError(
            f"{plugin}: {type(optimizer).__name__} looks at whole tensors, and ZeRO {stage} gives it"
            " parts of them in one vector; leave scale.zero_stage at 0"
        )


def _with_gradients(model: nn.Module) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    for parameter in trained(model):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return trained(model)


def _flatten(optimizer: torch.optim.Optimizer, group: dict[str, list[nn.Parameter]]) -> Tensor:
    """Replaces the parameters of a group by one flat vector with their gradients and states."""
    parameters = group["params"]
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    vector.grad = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    states = [optimizer.state.pop(p, {}) for p in parameters]
    for name, first in states[0].items():
        shaped = isinstance(first, Tensor) and first.shape == parameters[0].shape
        joined = torch.cat([state[name].flatten() for state in states]) if shaped else first
        optimizer.state[vector][name] = joined
    group["params"] = [vector]
    return vector
