"""The click-through model of Anil et al. (2018), section 3.3: embeddings and a ReLU tower."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.classification import BinaryAUROC

from paceline.lightning_modules.backend.search import Real
from paceline.lightning_modules.backend.task import Task

# The embedding dimension and the widths of the hidden layers.
PRESETS = {"small": (8, (128, 64)), "paper": (16, (2560, 1024, 256))}


class ClickThrough(Task):
    """Predicts whether an impression is clicked, from integer counts and hashed categoricals.

    A missing integer (NaN) becomes zero. Each integer field has an indicator of missing values as a
    second feature, so that the model can distinguish a missing count from a count of zero. Categorical
    bucket 0 means missing.

    Args:
        hash_size: the number of buckets of each categorical field. The data give it.
        integers: the number of integer fields of a row.
        categoricals: the number of categorical fields of a row.
        preset: `paper` is the tower of Anil et al. (2018), 2560 x 1024 x 256. `small` is for a machine
            with two cores.
        optimizer: the optimizer. Adagrad is that of the paper.
        lr: the learning rate.
    """

    loss_name = "log loss (nats)"
    metric_name = "AUROC"
    search_space = {"lr": Real(1e-3, 0.3, log=True)}

    def __init__(
        self,
        hash_size: int,
        integers: int = 13,
        categoricals: int = 26,
        preset: Literal["small", "paper"] = "small",
        optimizer: Literal["adagrad", "adam", "sgd"] = "adagrad",
        lr: float = 0.02,
    ) -> None:
        super().__init__()
        dimension, widths = PRESETS[preset]
        self.optimizer, self.lr = optimizer, lr
        self.embedding = nn.Embedding(categoricals * hash_size, dimension)
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.register_buffer(
            "offsets", torch.arange(categoricals, dtype=torch.int32) * hash_size, persistent=False
        )
        layers: list[nn.Module] = []
        width = 2 * integers + categoricals * dimension
        for hidden in widths:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.tower = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, batch: Any) -> Tensor:
        """Returns the logits [B] of a batch.

        The batch has `dense` [B, integers] and `categories` [B, categoricals].
        """
        missing = batch.dense.isnan()
        embedded = self.embedding(batch.categories + self.offsets)
        features = [batch.dense.nan_to_num(0.0), missing.to(embedded.dtype), embedded.flatten(1)]
        logits: Tensor = self.tower(torch.cat(features, dim=1))
        return logits.squeeze(1)

    def labels(self, batch: Any) -> Tensor:
        label: Tensor = batch.label
        return label

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def inverse(self, probabilities: Tensor) -> Tensor:
        return probabilities.logit(eps=1e-7)

    def metric(self) -> BinaryAUROC:
        return BinaryAUROC()

    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        match self.optimizer:
            case "adagrad":
                return torch.optim.Adagrad(parameters, lr=self.lr, fused=True)
            case "adam":
                return torch.optim.Adam(parameters, lr=self.lr)
            case "sgd":
                return torch.optim.SGD(parameters, lr=self.lr)
