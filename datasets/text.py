"""Text for language models: words or characters from disk, or the embedded synthetic text.

`prepare_data` turns either into a cache of tokens that every rank maps into memory. See
docs/datasets/text.md for the formats, the errors and the measured figures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from paceline.datasets.batches import collate
from paceline.datasets.markov_text import MarkovText
from paceline.datasets.reading import cache
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.corpus import Corpus, Level, Prepared, Synthetic, TextFiles, prepare
from paceline.datasets.reading.files import check
from paceline.home import home

EVALUATED_LOGITS = 1 << 23  # the most logits of an evaluation batch: 32 MiB


class TokenBatch(NamedTuple):
    """B sequences of T tokens."""

    tokens: torch.Tensor  # int32 [B, T]
    targets: torch.Tensor  # int64 [B, T], the next token after each token


class SequenceDataset(Dataset[TokenBatch]):
    """Tokens `start` to `stop` of a cache, cut into sequences of T tokens.

    Sequence i holds the tokens i T to i T + T - 1. Each token is predicted once, except for the first
    token and for fewer than T tokens at the end. A pickle contains the path, not the tokens.
    """

    def __init__(self, file: Path, start: int, stop: int, length: int) -> None:
        self._place = (file, start, stop, length)
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        self._tokens, self._length = np.asarray(mapped)[start:stop, 0], length

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._length

    def __getitem__(self, index: int) -> TokenBatch:
        """Returns one sequence as a batch of size 1."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> TokenBatch:
        """Returns the sequences at `indices` as one batch."""
        starts = np.asarray(indices)[:, None] * self._length
        window = torch.from_numpy(self._tokens.take(starts + np.arange(self._length + 1)))
        return TokenBatch(tokens=window[:, :-1], targets=window[:, 1:].long())

    def __reduce__(self) -> tuple[type["SequenceDataset"], tuple[Path, int, int, int]]:
        return SequenceDataset, self._place


class Text(LightningDataModule):
    """Prediction of the next token from the tokens before it in its sequence.

    Args:
        path: a text file, a folder with one file per split (`train.txt`, `ptb.valid.txt.gz`), or a
            folder of shards with one document per line. All files are UTF-8, plain or `.gz`. With None,
            the synthetic text is used.
        level: whether a token is a word or a character. `auto` reads characters from a file and words
            from a folder.
        sequence_length: T, the number of tokens in a sequence.
        max_vocabulary: the largest size of the vocabulary. It keeps the most frequent tokens, and all
            others become `<unk>`. With None, it keeps every training token.
        validation_fraction: the fraction of the tokens to validate on. They are the last tokens. It is
            used only if there is no validation file.
        train_tokens: the number of tokens of the synthetic text to train on.
        validation_tokens: the number of tokens of the synthetic text to validate on.
        synthetic_seed: the seed of the synthetic text.
        cache_dir: the folder for the prepared tokens, relative to `PACELINE_HOME` or the current folder.

    Raises:
        DataError: an argument is out of range, or the data cannot be used.
    """

    provides = ("vocabulary_size", "sequence_length")  # what a model needs to know about the data
    batch_size = 32  # for the loaders below; a benchmark uses its own sampler

    train_dataset: SequenceDataset
    validation_dataset: SequenceDataset

    def __init__(
        self,
        path: str | None = None,
        level: Level = "auto",
        sequence_length: int = 35,
        max_vocabulary: int | None = None,
        validation_fraction: float = 0.1,
        train_tokens: int = 1_000_000,
        validation_tokens: int = 100_000,
        synthetic_seed: int = 0,
        cache_dir: str = ".cache/text",
    ) -> None:
        super().__init__()
        check("sequence_length", sequence_length, sequence_length >= 1, "at least 1")
        check(
            "max_vocabulary",
            max_vocabulary,
            max_vocabulary is None or max_vocabulary >= 2,
            "at least 2",
        )
        check(
            "validation_fraction", validation_fraction, 0 < validation_fraction < 1, "within (0, 1)"
        )
        check("train_tokens", train_tokens, train_tokens >= 1, "at least 1")
        check("validation_tokens", validation_tokens, validation_tokens >= 1, "at least 1")
        check("synthetic_seed", synthetic_seed, synthetic_seed >= 0, "at least 0")
        self.sequence_length = sequence_length
        self._max_vocabulary, self._cache = max_vocabulary, home() / Path(cache_dir).expanduser()
        self._synthetic_seed = synthetic_seed
        self._corpus: Corpus = (
            Synthetic(synthetic_seed, train_tokens, validation_tokens)
            if path is None
            else TextFiles(Path(path).expanduser(), level, validation_fraction)
        )
        self._prepared: Prepared | None = None

    def prepare_data(self) -> None:
        """Builds the cache if it does not exist. Several processes may call this at the same time."""
        prepared = prepare(self._corpus, self._max_vocabulary, self._cache)
        for split in ("train", "validation"):
            tokens = prepared.about[f"{split}_tokens"]
            if tokens <= self.sequence_length:
                raise DataError(
                    f"{self._corpus.name}: {tokens} {split} tokens are too few for one sequence of"
                    f" {self.sequence_length} and the token after it; give more text, or a smaller"
                    " --workload.data.sequence_length"
                )
        self._prepared = prepared

    def setup(self, stage: str | None = None) -> None:
        """Maps the cache into memory. If needed, it calls `prepare_data` first."""
        if self._prepared is None:
            self.prepare_data()
        prepared, length = self._ready, self.sequence_length
        train, validation = (prepared.about[f"{split}_tokens"] for split in ("train", "validation"))
        self.train_dataset = SequenceDataset(prepared.tokens_file, 0, train, length)
        self.validation_dataset = SequenceDataset(
            prepared.tokens_file, train, train + validation, length
        )

    def train_dataloader(self) -> DataLoader[TokenBatch]:
        """Returns a loader of shuffled training batches of `batch_size` sequences."""
        return self._loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[TokenBatch]:
        """Returns a loader of validation batches of `batch_size` sequences, in the order of the text."""
        return self._loader(self.validation_dataset, shuffle=False)

    @property
    def vocabulary(self) -> list[str]:
        """The text of every token."""
        return list(self._about["vocabulary"])

    @property
    def vocabulary_size(self) -> int:
        """The number of different tokens."""
        return len(self._about["vocabulary"])

    @property
    def evaluation_batch(self) -> int:
        """The number of sequences to evaluate at once. The logits of a large vocabulary take memory."""
        return max(1, EVALUATED_LOGITS // (self.sequence_length * self.vocabulary_size))

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the tokens, the vocabulary and the cut into sequences, in hexadecimal."""
        split = [self._about["train_tokens"], self._about["validation_tokens"]]
        return cache.digest([self._about["content"], split, self.sequence_length])

    @property
    def description(self) -> dict[str, str | int | float]:
        """The facts for a trial's record. Rows are sequences, and losses are in nats per token.

        `constant_log_loss` is the loss on the validation tokens of always predicting the frequencies of
        the training tokens. `bayes_log_loss` is the lowest expected loss on sequences of this length. It
        approaches the `entropy_rate` for longer sequences. Only the synthetic text has these two.
        """
        facts: dict[str, str | int | float] = {
            "name": self._corpus.name,
            "synthetic": self._corpus.synthetic,
            "train_rows": (self._about["train_tokens"] - 1) // self.sequence_length,
            "validation_rows": (self._about["validation_tokens"] - 1) // self.sequence_length,
            "train_tokens": self._about["train_tokens"],
            "validation_tokens": self._about["validation_tokens"],
            "sequence_length": self.sequence_length,
            "vocabulary_size": self.vocabulary_size,
            "constant_log_loss": self._about["constant_log_loss"],
        }
        if self._corpus.synthetic:
            source = MarkovText(self._synthetic_seed)
            facts["entropy_rate"] = source.entropy_rate
            facts["bayes_log_loss"] = source.lowest_loss(self.sequence_length)
        return facts

    @property
    def _about(self) -> dict[str, Any]:
        return self._ready.about

    @property
    def _ready(self) -> Prepared:
        if self._prepared is None:
            raise RuntimeError("call prepare_data or setup first")
        return self._prepared

    def _loader(self, dataset: SequenceDataset, shuffle: bool) -> DataLoader[TokenBatch]:
        return DataLoader(dataset, self.batch_size, shuffle=shuffle, collate_fn=collate)
