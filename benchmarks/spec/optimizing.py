"""Whether the optimizer of a task can be used: on what it was given, and under ZeRO."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from paceline.benchmarks.spec.plugin import ConfigError, Plugin
from paceline.lightning_modules.backend.state import trained
from paceline.lightning_modules.backend.task import Task


def check_optimized(plugin: Plugin, task: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raises `ConfigError` where the optimizer steps on other parameters than those that are trained."""
    names = {parameter: name for name, parameter in task.named_parameters()}
    given = set(trained(task))
    stepped = {p for group in optimizer.param_groups for p in group["params"]}
    call = f"{plugin}: the optimizer of configure_optimizer(parameters)"
    if missing := [name for p, name in names.items() if p in given - stepped]:
        raise ConfigError(
            f"{call} does not step on {', '.join(missing)}; put them into a group, or set requires_grad"
            " to False"
        )
    if strange := stepped - given:
        own = sorted(names[p] for p in strange if p in names) or ["tensors of another model"]
        raise ConfigError(f"{call} steps on what it was not given: {', '.join(own)}")


def check_under_zero(plugin: Plugin, task: Task, stage: int) -> None:
    """Raises `ConfigError` where ZeRO would train another model, or with another optimizer.

    ZeRO 1 to 3 step on float32 copies, of which each group is one flat vector. An optimizer that looks at
    the tensors by themselves, as Muon, LARS and LAMB do, takes another step on that.
    """
    dtype = str(trained(task)[0].dtype).removeprefix("torch.")
    if dtype != "float32":
        raise ConfigError(
            f"{plugin} is {dtype}, which ZeRO {stage} would train in float32; leave scale.zero_stage at 0"
        )
    whole, flat = deepcopy(task), deepcopy(task)
    optimizer = whole.configure_optimizer(_with_gradients(whole))
    flattened = flat.configure_optimizer(_with_gradients(flat))
    vectors = [_flatten(flattened, group) for group in flattened.param_groups]
    optimizer.step()
    try:
        flattened.step()
        alike = all(
            torch.allclose(torch.cat([p.flatten() for p in stepped["params"]]), vector, 1e-4, 1e-6)
            for stepped, vector in zip(optimizer.param_groups, vectors, strict=True)
        )
    except (ValueError, RuntimeError, IndexError):
        alike = False  # as of optimizers for matrices alone
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
    """Puts one vector in the place of a group's parameters, with their gradients and states."""
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
