"""Image classifiers: the two networks of McMahan et al. (2016) for MNIST, and ResNet-18."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from paceline.lightning_modules.backend.search import Real
from paceline.lightning_modules.backend.task import Task

LARGE = 64  # pixels; for images of at least this size, ResNet has its stem for photographs


class ImageClassifier(Task):
    """Predicts the class of an image.

    Args:
        channels: the number of channels of an image. The data give it.
        image_size: the height and width in pixels. The data give it.
        classes: the number of classes. The data give it.
        model: the network. `2nn` and `cnn` are the networks of McMahan et al. (2016), section 3.
            `resnet18` is that of He et al. (2015), table 1. The running means and variances of ResNet are
            buffers, which replicas exchange together with the weights.
        optimizer: `sgd` is the choice of McMahan et al. `momentum` is SGD with momentum 0.9.
        lr: the learning rate.

    Raises:
        ValueError: the images are smaller than the model allows, or there are fewer than two classes.
    """

    loss_name = "cross-entropy (nats)"
    metric_name = "accuracy"
    search_space = {"lr": Real(1e-3, 1.0, log=True)}

    def __init__(
        self,
        channels: int,
        image_size: int,
        classes: int,
        model: Literal["2nn", "cnn", "resnet18"] = "cnn",
        optimizer: Literal["sgd", "momentum", "adam", "adagrad"] = "sgd",
        lr: float = 0.1,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"a classifier needs two classes at least, not {classes}")
        if model == "cnn" and image_size < 4:
            raise ValueError(f"cnn needs images of at least 4 pixels, not {image_size}")
        self.classes, self.optimizer, self.lr = classes, optimizer, lr
        build = {"2nn": two_hidden_layers, "cnn": convolutional, "resnet18": resnet18}[model]
        self.network = build(channels, image_size, classes)

    def forward(self, batch: Any) -> Tensor:
        """Returns the logits [B, classes] of a batch.

        The batch has `image` [B, channels, image_size, image_size].
        """
        logits: Tensor = self.network(batch.image)
        return logits

    def labels(self, batch: Any) -> Tensor:
        """Returns the classes int64 [B] of a batch."""
        label: Tensor = batch.label
        return label

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean cross-entropy. Labels are classes int64 [B] or probabilities [B, classes]."""
        return cross_entropy(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def inverse(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp(min=1e-7).log()

    def metric(self) -> MulticlassAccuracy:
        return MulticlassAccuracy(self.classes, average="micro")

    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        match self.optimizer:
            case "sgd":
                return torch.optim.SGD(parameters, lr=self.lr)
            case "momentum":
                return torch.optim.SGD(parameters, lr=self.lr, momentum=0.9)
            case "adam":
                return torch.optim.Adam(parameters, lr=self.lr)
            case "adagrad":
                return torch.optim.Adagrad(parameters, lr=self.lr)


def two_hidden_layers(channels: int, size: int, classes: int) -> nn.Sequential:
    """The 2NN of McMahan et al.: two hidden layers of 200 units with ReLU.

    It has 199,210 parameters on MNIST.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * size**2, 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, classes),
    )


def convolutional(channels: int, size: int, classes: int) -> nn.Sequential:
    """The CNN of McMahan et al.: two convolutional layers and a hidden layer of 512 units.

    The convolutions are 5 x 5 with 32 and 64 channels. Each is followed by 2 x 2 pooling. The network has
    1,663,370 parameters on MNIST.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),  # after the pooling: the same values for a quarter of the work
        nn.Conv2d(32, 64, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * (size // 4) ** 2, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )


def resnet18(channels: int, size: int, classes: int) -> nn.Sequential:
    """ResNet-18. Images smaller than 64 pixels keep their size up to the first stage.

    It has 11,689,512 parameters on ImageNet (224 pixels, 1,000 classes) and 11,173,962 on CIFAR-10.
    """
    stem: list[nn.Module] = (
        [nn.Conv2d(channels, 64, 7, 2, 3, bias=False), *_normalised(64), nn.MaxPool2d(3, 2, 1)]
        if size >= LARGE
        else [nn.Conv2d(channels, 64, 3, 1, 1, bias=False), *_normalised(64)]
    )
    blocks = []
    for before, width, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        blocks += [ResidualBlock(before, width, stride), ResidualBlock(width, width, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
    network = nn.Sequential(*stem, *blocks, *head)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _normalised(width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.ReLU()]


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut. If the shape changes, it is a 1 x 1 convolution."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            *_normalised(width),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, image: Tensor) -> Tensor:
        """Maps [B, before, H, W] to [B, width, H / stride, W / stride]."""
        summed: Tensor = self.residual(image) + self.shortcut(image)
        return summed.relu()
