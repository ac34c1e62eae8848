"""Language models that predict the next token: a recurrent network, or a transformer.

`lstm` with preset `paper` is the model of Anil et al. (2018), "Large Scale Distributed Neural Network
Training Through Online Distillation". It has embeddings of width 256 and two LSTM layers of 1024 units.
The layer normalisation inside the LSTM is that of the supplement of Ba et al. (2016), "Layer
Normalization". `lstm` with preset `small` has two layers of 200 units, as in Zaremba et al. (2014),
"Recurrent Neural Network Regularization". Each layer runs in one fused operation. Its output is
normalised, and not its gates.

`gpt` is the decoder of Radford et al. (2018), "Improving Language Understanding by Generative
Pre-Training", with layer normalisation before each part. Preset `paper` has 12 layers of width 768, as
in the paper. Preset `small` has two layers of width 128.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torchmetrics import Metric

from paceline.lightning_modules.backend.search import Real
from paceline.lightning_modules.backend.task import Task

LSTM_SIZES = {"small": (200, 200, 2), "paper": (256, 1024, 2)}  # embedding, hidden, layers
GPT_SIZES = {"small": (128, 4, 2), "paper": (768, 12, 12)}  # width, heads, layers
INITIAL_STD = 0.05
SMALLEST = 1e-30  # a probability whose logarithm is still a number


class LanguageModel(Task):
    """Predicts each token of a sequence from the tokens before it. A row of the output is a token.

    Each sequence starts without memory of the previous one. If the embedding is as wide as the last
    layer, the embedding and the decoder share their weights (Press and Wolf, 2017). This is the case for
    all networks except the LSTM of preset `paper`.

    Args:
        vocabulary_size: V, the size of the vocabulary. The data give it.
        sequence_length: T, the length of the longest sequence. The data give it.
        architecture: the architecture of the network.
        preset: the size of the network.
        optimizer: the optimizer. All its settings except `lr` are torch's defaults.
        lr: the learning rate.
        dropout: the dropout rate of the embeddings and of the output of each layer.
    """

    loss_name = "cross-entropy (nats/token)"
    metric_name = "perplexity"
    search_space = {"lr": Real(3e-4, 0.1, log=True)}

    def __init__(
        self,
        vocabulary_size: int,
        sequence_length: int,
        architecture: Literal["lstm", "gpt"] = "lstm",
        preset: Literal["small", "paper"] = "small",
        optimizer: Literal["sgd", "adam", "adagrad"] = "adam",
        lr: float = 0.003,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.optimizer, self.lr = optimizer, lr
        self.network: LSTM | GPT
        if architecture == "lstm":
            embedding, hidden, layers = LSTM_SIZES[preset]
            self.network = LSTM(embedding, hidden, layers, dropout, fused=preset == "small")
        else:
            hidden, heads, layers = GPT_SIZES[preset]
            embedding, self.network = hidden, GPT(hidden, heads, layers, dropout, sequence_length)
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(hidden, vocabulary_size)
        nn.init.normal_(self.embedding.weight, std=INITIAL_STD)
        nn.init.normal_(self.decoder.weight, std=INITIAL_STD)
        nn.init.zeros_(self.decoder.bias)
        if embedding == hidden:
            self.decoder.weight = self.embedding.weight

    def forward(self, batch: Any) -> Tensor:
        """Returns the logits [B T, V] of a batch with `tokens` [B, T]."""
        hidden = self.network(self.dropout(self.embedding(batch.tokens)))
        logits: Tensor = self.decoder(hidden.flatten(0, 1))
        return logits

    def labels(self, batch: Any) -> Tensor:
        """Returns the tokens to predict, int64 [B T]."""
        targets: Tensor = batch.targets
        return targets.flatten()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1)

    def inverse(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp(min=SMALLEST).log()

    def metric(self) -> "Perplexity":
        return Perplexity()

    def configure_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        match self.optimizer:
            case "sgd":
                return torch.optim.SGD(parameters, lr=self.lr)
            case "adam":
                return torch.optim.Adam(parameters, lr=self.lr)
            case "adagrad":
                return torch.optim.Adagrad(parameters, lr=self.lr)


class Perplexity(Metric):
    """The perplexity: exp of the mean of -log(probability of the token), in nats.

    It is updated with probabilities [N, V] and labels [N].
    """

    surprise: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        zero = torch.zeros((), dtype=torch.float64)  # float32 cannot count a large corpus
        self.add_state("surprise", zero, dist_reduce_fx="sum")
        self.add_state("tokens", zero.clone(), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        of_labels = probabilities.gather(1, labels.long().unsqueeze(1))
        self.surprise -= of_labels.clamp(min=SMALLEST).log().double().sum()
        self.tokens += len(labels)

    def compute(self) -> Tensor:
        return (self.surprise / self.tokens).exp()


class LSTM(nn.Module):
    """LSTM layers with layer normalisation: after each layer if `fused`, otherwise in its gates."""

    def __init__(self, width: int, hidden: int, layers: int, dropout: float, fused: bool) -> None:
        super().__init__()
        widths = [width] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(
            FusedLSTM(width, hidden) if fused else LayerNormLSTM(width, hidden) for width in widths
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, sequence: Tensor) -> Tensor:
        """Maps [B, T, width] to [B, T, hidden]."""
        for layer in self.layers:
            sequence = self.dropout(layer(sequence))
        return sequence


class FusedLSTM(nn.Module):
    """One layer of torch's LSTM, followed by layer normalisation."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, sequence: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.lstm(sequence)[0])
        return normalised


class LayerNormLSTM(nn.Module):
    """An LSTM layer whose inputs, recurrent inputs and cells are normalised at every step.

    (f, i, o, g) = LN(W_h h) + LN(W_x x) + b
    c <- sigmoid(f) c + sigmoid(i) tanh(g),   h <- sigmoid(o) tanh(LN(c))
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(width, 4 * hidden, bias=False)
        self.from_hidden = nn.Linear(hidden, 4 * hidden, bias=False)
        self.norm_input = nn.LayerNorm(4 * hidden)  # its bias is b
        self.norm_hidden = nn.LayerNorm(4 * hidden, bias=False)
        self.norm_cell = nn.LayerNorm(hidden)

    def forward(self, sequence: Tensor) -> Tensor:
        inputs = self.norm_input(self.from_input(sequence))
        hidden = cell = sequence.new_zeros(len(sequence), self.norm_cell.normalized_shape[0])
        outputs = []
        for step in inputs.unbind(dim=1):
            gates = step + self.norm_hidden(self.from_hidden(hidden))
            forget, enter, leave, new = gates.chunk(4, dim=1)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * self.norm_cell(cell).tanh()
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)


class GPT(nn.Module):
    """A transformer decoder with `layers` blocks and learnt position embeddings."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float, length: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(length, width) * INITIAL_STD)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, sequence: Tensor) -> Tensor:
        """Maps [B, T, width] to [B, T, width]."""
        normalised: Tensor = self.norm(self.blocks(sequence + self.positions[: sequence.shape[1]]))
        return normalised


class Block(nn.Module):
    """A block of the decoder: x <- x + attention(LN(x)), then x <- x + feed-forward(LN(x))."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, sequence: Tensor) -> Tensor:
        sequence = sequence + self.dropout(self.projection(self._attend(sequence)))
        after: Tensor = sequence + self.dropout(self.feed_forward(self.norm(sequence)))
        return after

    def _attend(self, sequence: Tensor) -> Tensor:
        joined = self.attention(self.attention_norm(sequence))
        # [B, T, 3 heads d] to three of [B, heads, T, d].
        split = joined.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind()
        attended: Tensor = scaled_dot_product_attention(query, key, value, is_causal=True)
        return attended.transpose(1, 2).flatten(2)
