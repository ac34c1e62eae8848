"""Models that are more than trained float32 matrices, each a kind that people bring."""

import os
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tests.workload import Rows, Tower


class Normalised(Tower):
    """With batch normalisation, whose statistics and counter are buffers."""

    def __init__(self, features: int, width: int = 16, lr: float = 0.1) -> None:
        super().__init__(features, lr=lr)
        self.tower = nn.Sequential(
            nn.Linear(features, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 1)
        )


class Frozen(Tower):
    """With a first layer that is not trained and, behind it, one layer that is used twice."""

    def __init__(self, features: int, width: int = 16, lr: float = 0.1) -> None:
        super().__init__(features, lr=lr)
        twice = nn.Linear(width, width)
        self.tower = nn.Sequential(
            nn.Linear(features, width).requires_grad_(False),
            twice,
            nn.Tanh(),
            twice,
            nn.Linear(width, 1),
        )


class Tempered(Tower):
    """With a learnt temperature, a parameter of no dimension."""

    def __init__(self, features: int, width: int = 16, lr: float = 0.1) -> None:
        super().__init__(features, width, lr=lr)
        self.log_scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, batch: Rows) -> Tensor:
        return super().forward(batch) * self.log_scale.exp()


class Exact(Tower):
    """In float64, and of no use in float32: its inputs are far from zero."""

    far = 1.7e9

    def __init__(self, features: int, width: int = 16, lr: float = 0.1) -> None:
        super().__init__(features, width, lr=lr)
        self.shift = nn.Parameter(torch.tensor([self.far]), requires_grad=False)
        self.double()

    def forward(self, batch: Rows) -> Tensor:
        x = batch.x.to(self.shift.dtype) + self.far
        return super().forward(Rows(x - self.shift, batch.y))


class Short(Tower):
    """In bfloat16."""

    def __init__(self, features: int, width: int = 16, lr: float = 0.1) -> None:
        super().__init__(features, width, lr=lr)
        self.bfloat16()


class Grouped(Tower):
    """AdamW that decays matrices alone, by their dimension and by the names of the model's own."""

    named: ClassVar[bool] = False

    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        mine = [p for _, p in self.named_parameters()] if self.named else list(parameters)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in mine if p.dim() >= 2], "weight_decay": 0.5},
            {"params": [p for p in mine if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.01)


class Named(Grouped):
    named = True


class Trusting(Tower):
    """With an optimizer that moves each tensor in proportion to its own norm, as LARS and LAMB do."""

    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return TrustRatio(parameters, self.lr)


class TrustRatio(torch.optim.Optimizer):
    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                norm = p.grad.norm()
                if norm > 0:
                    p -= p.grad * (group["lr"] * p.norm().clamp(min=0.01) / norm)


class Unseeded(Tower):
    """Whose weights differ from process to process."""

    def __init__(self, features: int, width: int = 16, lr: float = 0.1) -> None:
        super().__init__(features, width, lr=lr)
        with torch.no_grad():
            self.tower[0].bias.fill_(float(os.getpid()))
