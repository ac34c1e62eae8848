"""Models that are more than trained float32 matrices, each a kind that people bring."""

import math
import os
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import BinaryAUROC

from paceline.datasets.batches import collate
from tests.workload import LinearRule, Rows, RowsDataset, Tower, draw, optimizer_of


class Normalised(Tower):
    """With batch normalisation, whose statistics and counter are buffers."""

    dropout = 0.0

    def __init__(self, features: int, width: int = 16, lr: float = 0.1) -> None:
        super().__init__(features, lr=lr)
        self.tower = nn.Sequential(
            nn.Linear(features, width),
            nn.BatchNorm1d(width),
            nn.Tanh(),
            nn.Dropout(self.dropout),
            nn.Linear(width, 1),
        )


class Noisy(Normalised):
    """With dropout too."""

    dropout = 0.1


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


class WarmedUp(Grouped):
    """Whose rate rises for a quarter of the steps and then falls to zero."""

    def configure_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: 0.2 * min(4 * step, steps - step) / steps)


class Embedding(Tower):
    """Embeds the signs of the features. The gradients of the table are sparse if asked."""

    def __init__(self, features: int, sparse: bool = False, lr: float = 0.1) -> None:
        super().__init__(features, lr=lr)
        self.table = nn.EmbeddingBag(2 * features, 8, mode="sum", sparse=sparse)
        self.tower = nn.Sequential(nn.Tanh(), nn.Linear(8, 1))

    def forward(self, batch: Rows) -> Tensor:
        numbers = 2 * torch.arange(batch.x.shape[1]) + (batch.x > 0)
        return self.tower(self.table(numbers)).squeeze(1)  # type: ignore[no-any-return]


class Conditional(Tower):
    """With a scale that only every second forward in training uses."""

    def __init__(self, features: int, lr: float = 0.1) -> None:
        super().__init__(features, lr=lr)
        self.scale = nn.Parameter(torch.ones(3))
        self.calls = 0

    def forward(self, batch: Rows) -> Tensor:
        self.calls += self.training
        logits = super().forward(batch)
        return logits * self.scale.sum() if self.calls % 2 else logits


class Sums(Tower):
    """Under Adagrad, whose sums depend on every gradient that it has seen."""

    def __init__(self, features: int, lr: float = 0.1) -> None:
        super().__init__(features, optimizer="adagrad", lr=lr)


class Spoiling(Tower):
    """With an optimizer that uses the memory of its gradients, as some do for weight decay."""

    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return Decaying(parameters, self.lr)


class Decaying(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.add_(p, alpha=0.1)
        super().step()


class Unused(Sums):
    """With a table that no example uses. It comes before the tower."""

    SIZE = 1003

    def __init__(self, features: int, lr: float = 0.1) -> None:
        super().__init__(features, lr)
        self.table = nn.Parameter(torch.randn(self.SIZE))

    def forward(self, batch: Rows) -> Tensor:
        return super().forward(batch) + 0.0 * self.table.sum()


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


class Regression(Tower):
    """Whose labels are numbers in [0, 1]."""

    metric_name = "absolute error"

    def metric(self) -> MeanAbsoluteError:  # type: ignore[override]
        return MeanAbsoluteError()


class Ranked(Tower):
    metric_name = "AUROC"

    def metric(self) -> BinaryAUROC:  # type: ignore[override]
        return BinaryAUROC()


class OneByOne(Dataset[Rows]):
    """Examples that are read one at a time, by a number that has to be Python's."""

    def __init__(self, rows: Rows, augment: Callable[[], float] = lambda: 0.0) -> None:
        self.rows, self.augment = rows, augment

    def __len__(self) -> int:
        return len(self.rows.y)

    def __getitem__(self, index: int) -> Rows:
        if type(index) is not int:
            raise TypeError(f"a {type(index).__name__} is no int")
        return Rows(self.rows.x[index] + self.augment(), self.rows.y[index])


class Drawn(LinearRule):
    """Whose split and augmentation are drawn without a generator of their own.

    Args:
        source: of the random numbers; `entropy` is a generator that nobody can seed.
        nan: the validation rows whose features are not numbers.
        one_class: whether all validation labels are 1.
        soft: whether labels are 0.25 and 0.75, not 0 and 1.
    """

    def __init__(
        self,
        source: Literal["random", "numpy", "torch", "entropy"] = "random",
        nan: list[int] | None = None,
        one_class: bool = False,
        soft: bool = False,
    ) -> None:
        super().__init__()
        self.source, self.nan = source, nan or []
        self.one_class, self.soft = one_class, soft

    def draw(self) -> float:
        match self.source:
            case "random":
                return random.random()
            case "numpy":
                return float(np.random.random())
            case "torch":
                return torch.rand(()).item()
            case _:
                return float(np.random.default_rng().random())

    def setup(self, stage: str | None = None) -> None:
        rows = draw(150, 1)
        rows = Rows(rows.x, (rows.y + 0.5) / 2 if self.soft else rows.y)
        order = sorted(range(150), key=lambda _: self.draw())
        self.train = Rows(*(part[order[:100]] for part in rows))
        self.validation = Rows(*(part[order[100:]].clone() for part in rows))
        self.validation.x[self.nan] = math.nan
        if self.one_class:
            self.validation.y.fill_(1.0)

    def train_dataloader(self) -> DataLoader[Rows]:
        return DataLoader(OneByOne(self.train, lambda: 0.1 * self.draw()))

    def val_dataloader(self) -> DataLoader[Rows]:
        return DataLoader(OneByOne(self.validation))


class WithTestPart(LinearRule):
    """The rule with a test part, which is made for that stage alone.

    Args:
        rows: examples to train on.
        flipped: whether the labels of the test part are the other ones.
        nan: whether a feature of the test part is no number.
    """

    TEST_ROWS = 37

    def __init__(self, rows: int = 100, flipped: bool = False, nan: bool = False) -> None:
        super().__init__(rows)
        self.flipped, self.nan = flipped, nan

    def setup(self, stage: str | None = None) -> None:
        if stage == "test":
            tested = draw(self.TEST_ROWS, 3)
            self.tested = Rows(tested.x, 1 - tested.y) if self.flipped else tested
            if self.nan:
                self.tested.x[5, 0] = math.nan

    def test_dataloader(self) -> DataLoader[Rows]:
        return DataLoader(RowsDataset(self.tested), collate_fn=collate)


class Weighted(Tower):
    """A tower whose loss is a mean weighted by the class. A class of weight 0 is ignored.

    Args:
        features: of an example; the data's.
        zero: the weight of the class 0. That of the other class is 10.
        lr: the learning rate of plain SGD.
    """

    def __init__(self, features: int, zero: float = 1.0, lr: float = 0.1) -> None:
        super().__init__(features, lr=lr)
        self.zero = zero

    def weights(self, labels: Tensor) -> Tensor:
        return torch.where(labels > 0.5, 10.0, self.zero)

    def loss_weight(self, labels: Tensor) -> Tensor:
        return self.weights(labels).sum()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = binary_cross_entropy_with_logits(logits, labels, reduction="none")
        weights = self.weights(labels)
        return (weights * own).sum() / weights.sum()


class Unstated(Weighted):
    """The same without a word on the weights."""

    loss_weight = None  # type: ignore[assignment]


class OwnFactor(Tower):
    """A tower that multiplies its learning rate by an attribute of a name that others may use too."""

    def __init__(self, features: int, lr: float = 0.1) -> None:
        super().__init__(features, lr=lr)
        self.lr_factor = 2.0

    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return optimizer_of(self.optimizer, parameters, self.lr * self.lr_factor)


class Resplit(LinearRule):
    """The rule, whose rows are divided at random at every call of `setup`, whatever the stage.

    Args:
        kind: what the loader of the test part gives.
    """

    def __init__(self, kind: Literal["rows", "none", "empty", "stream"] = "rows") -> None:
        super().__init__()
        self.kind = kind

    def setup(self, stage: str | None = None) -> None:
        rows, order = draw(150, 1), torch.randperm(150)
        parts = order[:100], order[100:125], order[125:]
        self.trained, self.validated, self.tested = (
            RowsDataset(Rows(rows.x[part], rows.y[part])) for part in parts
        )

    def train_dataloader(self) -> DataLoader[Rows]:
        return DataLoader(self.trained, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Rows]:
        return DataLoader(self.validated, collate_fn=collate)

    def test_dataloader(self) -> Any:
        match self.kind:
            case "rows":
                return DataLoader(self.tested, collate_fn=collate)
            case "none":
                return []
            case "empty":
                return DataLoader(RowsDataset(draw(0, 1)), collate_fn=collate)
            case "stream":
                return DataLoader(Stream())


class Stream(IterableDataset[Rows]):
    """Rows without numbers."""

    def __iter__(self) -> Iterator[Rows]:
        yield draw(1, 1)
