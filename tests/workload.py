"""A small workload for the tests: a noisy linear rule, learnt by a tower or by logistic regression."""

import math
import time
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanSquaredError
from torchmetrics.classification import BinaryAccuracy

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import Plugin
from paceline.benchmarks.spec.settings import Budget, Target
from paceline.benchmarks.spec.workload import Workload
from paceline.datasets.batches import collate
from paceline.datasets.partition import Partition
from paceline.lightning_modules.backend.search import Dimension, Real
from paceline.lightning_modules.backend.task import Task

FEATURES, VALIDATION_ROWS = 6, 50


class Rows(NamedTuple):
    """Some examples: `x` [B, FEATURES], `y` [B] of 0 and 1."""

    x: Tensor
    y: Tensor


def draw(rows: int, seed: int) -> Rows:
    """`rows` examples of the rule, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, FEATURES, generator=generator)
    noise = torch.randn(rows, generator=generator)
    return Rows(x, (x.sum(dim=1) + 0.5 * noise > 0).float())


class RowsDataset(Dataset[Rows]):
    def __init__(self, rows: Rows, pause_s: float = 0.0) -> None:
        self.rows, self.pause_s = rows, pause_s

    def __len__(self) -> int:
        return len(self.rows.y)

    def __getitems__(self, indices: Any) -> Rows:
        time.sleep(self.pause_s)
        return Rows(self.rows.x[indices], self.rows.y[indices])


class LinearRule(LightningDataModule):
    """Training and validation rows of the rule.

    Args:
        rows: examples to train on.
        pause_s: how long reading a training batch takes.
    """

    provides: ClassVar[tuple[str, ...]] = ("features",)
    features = FEATURES

    def __init__(self, rows: int = 100, pause_s: float = 0.0) -> None:
        super().__init__()
        self.rows, self.pause_s = rows, pause_s

    @property
    def fingerprint(self) -> str:
        return f"linear rule, {self.rows} rows"

    @property
    def description(self) -> dict[str, Any]:
        return {
            "name": "linear rule",
            "synthetic": True,
            "train_rows": self.rows,
            "validation_rows": VALIDATION_ROWS,
        }

    def training(self) -> RowsDataset:
        return RowsDataset(draw(self.rows, 1), self.pause_s)

    def train_dataloader(self) -> DataLoader[Rows]:
        return DataLoader(self.training(), collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Rows]:
        return DataLoader(RowsDataset(draw(VALIDATION_ROWS, 2)), collate_fn=collate)


class Tower(Task):
    """Two layers with tanh, which has no kinks: rounding stays rounding.

    Args:
        features: of an example; the data's.
        width: of the hidden layer.
        optimizer: with its usual settings but for `lr`.
        lr: the learning rate.
        dropout: of the hidden layer.
        evaluation_pause_s: how long evaluating a batch takes.
    """

    loss_name = "log loss (nats)"
    metric_name = "accuracy"
    search_space: ClassVar[dict[str, Dimension]] = {"lr": Real(0.01, 1.0, log=True)}

    def __init__(
        self,
        features: int,
        width: int = 16,
        optimizer: Literal["sgd", "momentum", "adagrad", "adam"] = "sgd",
        lr: float = 0.1,
        dropout: float = 0.0,
        evaluation_pause_s: float = 0.0,
    ) -> None:
        super().__init__()
        self.optimizer, self.lr, self.evaluation_pause_s = optimizer, lr, evaluation_pause_s
        self.tower = nn.Sequential(
            nn.Linear(features, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1)
        )

    def forward(self, batch: Rows) -> Tensor:
        if not self.training:
            time.sleep(self.evaluation_pause_s)
        return self.tower(batch.x).squeeze(1)  # type: ignore[no-any-return]

    def labels(self, batch: Rows) -> Tensor:
        return batch.y

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def inverse(self, probabilities: Tensor) -> Tensor:
        return probabilities.logit(eps=1e-7)

    def metric(self) -> BinaryAccuracy:
        return BinaryAccuracy()

    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return optimizer_of(self.optimizer, parameters, self.lr)


class Explosive(Tower):
    """A tower whose loss is no number at a learning rate above 1."""

    search_space: ClassVar[dict[str, Dimension]] = {"lr": Real(0.01, 100.0, log=True)}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits, labels) * (math.nan if self.lr > 1 else 1)


class Logistic(Tower):
    """Logistic regression without an intercept: a convex problem.

    Args:
        features: of an example; the data's.
        lr: the learning rate of plain SGD.
    """

    def __init__(self, features: int, lr: float = 0.1) -> None:
        super().__init__(features, lr=lr)
        self.tower = nn.Sequential(nn.Linear(features, 1, bias=False))


class Bowl(Task):
    """One number that every example pulls to 1, along a parabola of curvature `CURVATURE`.

    Gradient descent is there after one step of 1 / CURVATURE, and diverges from twice that on.

    Args:
        features: of an example, which nothing looks at.
        lr: the learning rate of plain SGD.
    """

    loss_name = "squared distance"
    metric_name = "mean squared error"
    CURVATURE = 4.0
    search_space: ClassVar[dict[str, Dimension]] = {"lr": Real(1e-3, 10.0, log=True)}

    def __init__(self, features: int, lr: float = 0.002) -> None:
        super().__init__()
        self.lr, self.place = lr, nn.Parameter(torch.zeros(1))

    def forward(self, batch: Rows) -> Tensor:
        return self.place.expand(len(batch.y))

    def labels(self, batch: Rows) -> Tensor:
        return torch.ones_like(batch.y)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.CURVATURE / 2 * (logits - labels).square().mean()

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits

    def inverse(self, probabilities: Tensor) -> Tensor:
        return probabilities

    def metric(self) -> MeanSquaredError:
        return MeanSquaredError()

    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr)


def optimizer_of(name: str, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """The torch optimizer of that name."""
    match name:
        case "momentum":
            return torch.optim.SGD(parameters, lr=lr, momentum=0.9)
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=lr)
        case "adam":
            return torch.optim.Adam(parameters, lr=lr)
        case _:
            return torch.optim.SGD(parameters, lr=lr)


def trial(
    workers: int = 2,
    batch_size: int = 6,
    steps: int = 50,
    evaluations: int = 2,
    seed: int = 0,
    zero_stage: int = 0,
    algorithm: str = "sync_sgd",
    data: dict[str, Any] | None = None,
    hyper_parameters: dict[str, Any] | None = None,
    partition: Partition | None = None,
    model: str = "Tower",
    nodes: int = 1,
    **task: Any,
) -> Trial:
    """A trial of the rule; what is not named here goes to the model."""
    budget = Budget(examples=steps * batch_size * workers, epochs=1e9, evaluations=evaluations)
    return Trial(
        benchmark="test",
        workload=Workload(
            name="linear rule",
            data=Plugin("tests.workload:LinearRule", data or {}),
            task=Plugin(model if ":" in model else f"tests.workload:{model}", task),
            target=Target(0.5),
            budget=budget,
        ),
        label=algorithm,
        algorithm=algorithm,
        hyper_parameters=hyper_parameters or {},
        workers=workers,
        batch_size=batch_size,
        zero_stage=zero_stage,
        threads=1,
        accelerator="cpu",
        seed=seed,
        nodes=nodes,
        partition=partition or Partition(),
    )
