"""The image classifiers: their sizes, losses, metric and optimizers."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from paceline.datasets.image_batches import ImageBatch
from paceline.lightning_modules.models.image_classifier import ImageClassifier
from tests.images import loaded


@pytest.mark.parametrize(
    ("model", "channels", "size", "classes", "parameters"),
    [
        ("2nn", 1, 28, 10, 199_210),  # McMahan et al. (2016), section 3
        ("cnn", 1, 28, 10, 1_663_370),  # likewise
        ("resnet18", 3, 224, 1000, 11_689_512),  # He et al. (2015), as is commonly counted
        ("resnet18", 3, 32, 10, 11_173_962),
    ],
)
def test_models_have_the_published_number_of_parameters(model, channels, size, classes, parameters):
    task = ImageClassifier(channels, size, classes, model)
    assert sum(p.numel() for p in task.parameters()) == parameters


@pytest.mark.parametrize("model", ["2nn", "cnn", "resnet18"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_models_fit_every_size_of_image(model, channels, size):
    task = ImageClassifier(channels, size, 7, model)
    assert task(ImageBatch(torch.randn(2, channels, size, size), torch.zeros(2))).shape == (2, 7)


def test_the_first_stage_of_resnet_sees_56_pixels_of_224_and_all_of_32():
    for size, seen in ((224, 56), (32, 32)):
        stages = ImageClassifier(3, size, 10, "resnet18").network
        stem = stages[:4] if size == 224 else stages[:3]
        assert stem(torch.randn(1, 3, size, size)).shape == (1, 64, seen, seen)


def test_the_loss_takes_classes_and_probabilities_alike():
    task = ImageClassifier(1, 8, 3, "2nn")
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    assert task.loss(logits, labels) == cross_entropy(logits, labels)
    soft = torch.eye(3)[labels]
    torch.testing.assert_close(task.loss(logits, soft), task.loss(logits, labels))
    by_hand = -(task.probabilities(logits) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(task.loss(logits, task.probabilities(logits)), by_hand)


def test_probabilities_come_back_through_their_inverse():
    task = ImageClassifier(1, 8, 3, "2nn")
    probabilities = torch.randn(5, 3).softmax(1)
    torch.testing.assert_close(task.probabilities(task.inverse(probabilities)), probabilities)
    assert task.inverse(torch.tensor([[0.0, 1.0, 0.0]])).isfinite().all()


def test_accuracy_counts_every_example_alike():
    metric = ImageClassifier(1, 8, 3, "2nn").metric()
    predicted = torch.eye(3)[[0, 0, 0, 1]]
    metric.update(predicted, torch.tensor([0, 0, 1, 2]).int())
    assert metric.compute() == 0.5


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("sgd", 0.2), ("momentum", 0.03), ("adam", 0.002), ("adagrad", 0.01)]
)
@pytest.mark.parametrize("model", ["2nn", "cnn"])
def test_every_optimizer_brings_the_loss_of_a_batch_down(model, optimizer, lr):
    torch.manual_seed(0)
    batch = loaded(None).train_dataset.__getitems__(range(32))
    task = ImageClassifier(1, 8, 10, model, optimizer, lr)
    steps = task.configure_optimizer(task.parameters())
    losses = []
    for _ in range(30):
        steps.zero_grad()
        losses.append(task.loss(task(batch), batch.label))
        losses[-1].backward()
        steps.step()
    assert losses[-1] < 0.7 * losses[0]


def test_a_classifier_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"^a classifier needs two classes at least, not 1$"):
        ImageClassifier(1, 8, 1)
    with pytest.raises(ValueError, match=r"^cnn needs images of at least 4 pixels, not 3$"):
        ImageClassifier(1, 3, 10)
