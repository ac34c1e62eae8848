"""The language models: their equations, sizes, losses and metric."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from paceline.datasets.text import TokenBatch
from paceline.lightning_modules.models.language_model import LanguageModel, Perplexity


def batch_of(rows: int, length: int, vocabulary: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    window = torch.randint(vocabulary, (rows, length + 1), generator=generator)
    return TokenBatch(window[:, :-1].int(), window[:, 1:])


@pytest.mark.parametrize(
    ("architecture", "preset"), [("lstm", "small"), ("lstm", "paper"), ("gpt", "small")]
)
def test_a_prediction_depends_on_nothing_that_comes_later(architecture: Any, preset: Any) -> None:
    torch.manual_seed(0)
    model = LanguageModel(11, 6, architecture, preset).eval()
    batch = batch_of(3, 6, 11)
    logits = model(batch).view(3, 6, 11)
    assert torch.equal(model.labels(batch).view(3, 6), batch.targets)
    changed = batch.tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    moved = (model(TokenBatch(changed, batch.targets)).view(3, 6, 11) - logits).abs().amax((0, 2))
    assert moved[:4].max() < 1e-5
    assert moved[4:].min() > 1e-4


def test_layer_norm_lstm_follows_its_equations() -> None:
    from paceline.lightning_modules.models.language_model import LayerNormLSTM

    torch.manual_seed(0)
    layer = LayerNormLSTM(3, 5)
    x, h, c = torch.randn(1, 2, 3), torch.zeros(5), torch.zeros(5)

    def norm(vector: torch.Tensor) -> torch.Tensor:
        deviation = (vector.var(unbiased=False) + 1e-5).sqrt()
        return (vector - vector.mean()) / deviation

    for step in range(2):
        gates = norm(layer.from_hidden.weight @ h) + norm(layer.from_input.weight @ x[0, step])
        f, i, o, g = gates.split(5)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm(c).tanh()
        torch.testing.assert_close(layer(x)[0, step], h)


def parameters_of(**arguments: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in LanguageModel(**arguments).parameters())


def test_the_models_of_the_papers_have_their_sizes() -> None:
    layers = 4 * 1024 * (256 + 1024) + 4 * 1024 * (1024 + 1024) + 2 * (3 * 4 * 1024 + 2 * 1024)
    lstm = parameters_of(vocabulary_size=100, sequence_length=10, preset="paper")
    assert lstm == layers + 100 * 256 + 1024 * 100 + 100
    gpt = parameters_of(
        vocabulary_size=40_478, sequence_length=512, architecture="gpt", preset="paper"
    )
    assert round(gpt / 1e6) == 117


def test_losses_take_soft_labels_and_inverse_undoes_probabilities() -> None:
    model = LanguageModel(7, 4)
    batch = batch_of(2, 4, 7)
    logits = model(batch)
    probabilities = model.probabilities(logits)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(8))
    hard = torch.nn.functional.one_hot(model.labels(batch), 7).float()
    torch.testing.assert_close(
        model.loss(logits, hard), cross_entropy(logits, batch.targets.flatten())
    )
    again = model.inverse(probabilities)
    torch.testing.assert_close(model.probabilities(again), probabilities)
    certain = model.inverse(torch.eye(7))
    assert certain.isfinite().all()


def test_perplexity_is_the_exponential_of_the_mean_surprise() -> None:
    metric = Perplexity()
    metric.update(torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([0, 0]).int())
    metric.update(torch.tensor([[0.125, 0.875]]), torch.tensor([0]).int())
    assert metric.compute() == pytest.approx((2 * 4 * 8) ** (1 / 3))
    uniform = LanguageModel(10, 4).metric()
    uniform.update(torch.full((20, 10), 0.1), torch.arange(20).int() % 10)
    assert uniform.compute() == pytest.approx(10)
