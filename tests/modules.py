"""Ordinary LightningModules, as people have them. Their network is that of `Tower`."""

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad, relu
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryRecall

from tests.workload import Rows, Tower, draw


class Plain(LightningModule):
    """Logs its loss and a metric that it updates."""

    def __init__(self, features: int, width: int = 16, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.tower = nn.Sequential(
            nn.Linear(features, width), nn.Tanh(), nn.Dropout(0.0), nn.Linear(width, 1)
        )
        self.accuracy, self.training_accuracy = BinaryAccuracy(), BinaryAccuracy()

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x).squeeze(1)  # type: ignore[no-any-return]

    def training_step(self, batch: Rows, batch_idx: int) -> Tensor:
        logits = self(batch.x)
        self.training_accuracy(logits, batch.y.int())
        self.log("train_acc", self.training_accuracy, on_step=True)
        return binary_cross_entropy_with_logits(logits, batch.y)

    def validation_step(self, batch: Rows) -> None:  # the number of the batch may be left out
        logits = self(batch.x)
        self.accuracy(logits, batch.y.int())
        self.log("val_acc", self.accuracy)
        self.log("val_loss", binary_cross_entropy_with_logits(logits, batch.y), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)  # type: ignore[attr-defined]


class Tested(Plain):
    """Logs plain numbers, tests, and predicts."""

    def validation_step(self, batch: Rows, batch_idx: int) -> None:  # type: ignore[override]
        self.log_dict(self._figures(batch, "val"))

    def test_step(self, batch: Rows, batch_idx: int) -> None:
        self.log_dict(self._figures(batch, "test"))

    def predict_step(self, batch: Rows) -> Tensor:
        return self(batch.x).sigmoid()  # type: ignore[no-any-return]

    def _figures(self, batch: Rows, part: str) -> dict[str, Tensor]:
        logits = self(batch.x)
        loss = binary_cross_entropy_with_logits(logits, batch.y)
        return {f"{part}_loss": loss, f"{part}_acc": ((logits > 0) == batch.y).float().mean()}


class Weighing(Plain):
    """Ignores the rows of one class, and states how many rows the mean is over."""

    def validation_step(self, batch: Rows, batch_idx: int) -> None:  # type: ignore[override]
        chosen = batch.y > 0
        losses = binary_cross_entropy_with_logits(self(batch.x), batch.y, reduction="none")
        count = int(chosen.sum())
        loss = losses[chosen].sum() / max(count, 1)
        self.log("val_loss", loss, batch_size=count)


class Collected(Plain):
    """Logs a collection of metrics that share their states."""

    def __init__(self, features: int, metric: str = "val/recall") -> None:
        super().__init__(features)
        members = {"accuracy": BinaryAccuracy(), "recall": BinaryRecall()}
        self.collection = MetricCollection(members, prefix="val/")
        type(self).metric_name = metric

    def validation_step(self, batch: Rows, batch_idx: int) -> None:  # type: ignore[override]
        logits = self(batch.x)
        self.collection.update(logits, batch.y.int())
        self.log_dict(self.collection)
        self.log("val_loss", binary_cross_entropy_with_logits(logits, batch.y))


class Computing(Plain):
    """Computes its metric in the step, where ranks communicate."""

    def validation_step(self, batch: Rows, batch_idx: int) -> None:  # type: ignore[override]
        logits = self(batch.x)
        self.accuracy.update(logits, batch.y.int())
        self.log("val_acc", self.accuracy.compute())
        self.log("val_loss", binary_cross_entropy_with_logits(logits, batch.y))


class Ragged(Plain):
    """Predicts as many columns as the batch has rows of the one class."""

    def predict_step(self, batch: Rows) -> Tensor:
        return self(batch.x)[:, None].expand(-1, int(batch.y.sum()))  # type: ignore[no-any-return]


class ByEpoch(Plain):
    """Halves its rate after every pass over the data, by Lightning's default interval."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [StepLR(optimizer, 1, gamma=0.5)]


class ByStep(Plain):
    """With two groups and a schedule that ends with training. It also says what logits are."""

    loss_name, metric_name = "log loss (nats)", "accuracy"

    def forward(self, batch: Rows) -> Tensor:
        return super().forward(batch.x)

    labels, loss, metric = Tower.labels, Tower.loss, Tower.metric
    probabilities, inverse = Tower.probabilities, Tower.inverse

    def configure_optimizers(self) -> Any:
        matrices = [p for p in self.parameters() if p.dim() >= 2]
        vectors = [p for p in self.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors}]
        optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0)
        steps = self.trainer.estimated_stepping_batches
        schedule = LambdaLR(optimizer, lambda step: (steps - step) / steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Hooked(Plain):
    """Flips every label back that `on_before_batch_transfer` has flipped."""

    def on_before_batch_transfer(self, batch: Rows, dataloader_idx: int) -> Rows:
        return Rows(batch.x, 1 - batch.y)

    def on_after_batch_transfer(self, batch: Rows, dataloader_idx: int) -> Rows:
        assert self.trainer.training or self.trainer.validating or not self.trainer.global_step
        return Rows(batch.x, 1 - batch.y)


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = relu(self.norms[0](self.first(x)))
        return relu(self.shortcut(x) + self.norms[1](self.second(inner)))


class ResNet(LightningModule):
    """A residual network in the style of published ones. It was written without Paceline in mind.

    SGD with Nesterov momentum and a one-cycle schedule, no weight decay of norms and biases, label
    smoothing, and pictures that are shifted and mirrored in training.
    """

    def __init__(self, classes: int = 2, width: int = 8, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(
            Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1)
        )
        self.head = nn.Linear(2 * width, classes)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.val_acc = BinaryAccuracy()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        pictures, labels = batch
        if self.trainer.training:
            pictures = self.augmented(pictures)
        return pictures, labels

    def augmented(self, pictures: Tensor) -> Tensor:
        side = pictures.shape[-1]
        padded = pad(pictures, (1, 1, 1, 1))
        top, left = torch.randint(0, 3, (2,)).tolist()
        moved = padded[..., top : top + side, left : left + side]
        return moved.flip(-1) if torch.rand(()) < 0.5 else moved

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(pictures)).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def step(self, batch: Any) -> tuple[Tensor, Tensor]:
        pictures, labels = batch
        logits = self(pictures)
        return self.criterion(logits, labels), logits

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        loss, _ = self.step(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, logits = self.step(batch)
        self.val_acc.update(logits.argmax(dim=1), batch[1])
        self.log("val/loss", loss, on_epoch=True, sync_dist=True)
        self.log("val/acc", self.val_acc, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        lr = self.hparams.lr  # type: ignore[attr-defined]
        decayed = [p for p in self.parameters() if p.dim() > 1]
        others = [p for p in self.parameters() if p.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": 5e-4},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
        steps = self.trainer.estimated_stepping_batches
        schedule = OneCycleLR(optimizer, max_lr=[lr, lr], total_steps=int(steps))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@dataclass
class Output:
    """What a model in the convention of the package transformers returns."""

    loss: Tensor
    logits: Tensor


class TinyGPT(nn.Module):
    """A decoder of one layer in the convention of transformers."""

    def __init__(self, vocabulary: int, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, labels: Tensor) -> Output:
        mask = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1])
        logits = self.head(self.layer(self.embedding(input_ids), src_mask=mask, is_causal=True))
        shifted, aims = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return Output(nn.functional.cross_entropy(shifted, aims), logits)


class LanguageModel(LightningModule):
    """Ten lines around a model in that convention."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TinyGPT(vocabulary=8)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model(**batch).loss  # type: ignore[no-any-return]

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


def pictures(rows: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Pictures of 6 x 6 pixels, brighter above in one class and below in the other."""
    found = draw(rows, seed)
    slope = torch.linspace(-1, 1, 6)[None, :, None]
    noise = torch.randn(rows, 6, 6, generator=torch.Generator().manual_seed(seed))
    pixels = (2 * found.y - 1)[:, None, None] * slope + noise
    return [(p[None], y.long()) for p, y in zip(pixels, found.y, strict=True)]


def sentences(rows: int, seed: int) -> list[dict[str, Tensor]]:
    """Sentences of 10 tokens of 8 that count upwards, from a token that is drawn."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(8, (rows, 1), generator=generator)
    tokens = (first + torch.arange(10)) % 8
    return [{"input_ids": row, "labels": row} for row in tokens]
