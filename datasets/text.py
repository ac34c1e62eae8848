"""Text for language models: words or characters from disk, or the embedded synthetic text.

`prepare_data` turns either into a cache of tokens that every rank maps into memory; see
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

EVALUATED_LOGITS = 1 << 23  # of an evaluation batch: 32 MiB


class TokenBatch(NamedTuple):
    """B sequences of T tokens."""

    tokens: torch.Tensor  # int32 [B, T]
    targets: torch.Tensor  # int64 [B, T], the token after each


class SequenceDataset(Dataset[TokenBatch]):
    """Tokens `start` to `stop` of a cache, cut into sequences; pickles as its place, not its tokens.

    Sequence i holds tokens i T to i T + T - 1, and each token is predicted once, but for the first and
    for fewer than T at the end.
    """

    def __init__(self, file: Path, start: int, stop: int, length: int) -> None:
        self._place = (file, start, stop, length)
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        self._tokens, self._length = np.asarray(mapped)[start:stop, 0], length

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._length

    def __getitem__(self, index: int) -> TokenBatch:
        """One sequence, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> TokenBatch:
        """The sequences at `indices` as one batch."""
        starts = np.asarray(indices)[:, None] * self._length
        window = torch.from_numpy(self._tokens.take(starts + np.arange(self._length + 1)))
        return TokenBatch(tokens=window[:, :-1], targets=window[:, 1:].long())

    def __reduce__(self) -> tuple[type["SequenceDataset"], tuple[Path, int, int, int]]:
        return SequenceDataset, self._place


class Text(LightningDataModule):
    """The next token, from those before it in its sequence.

    Args:
        path: a text file; or a folder with a file a split (`train.txt`, `ptb.valid.txt.gz`); or a folder
            of shards, one document a line; all UTF-8, plain or `.gz`. None is the synthetic text.
        level: what a token is; `auto` is a character of a file and a word of a folder.
        sequence_length: T, tokens that a model is given at once.
        max_vocabulary: how many of the most frequent tokens are kept apart; the others are `<unk>`.
        validation_fraction: the last part of the tokens, to validate on, where no file is for it.
        train_tokens: tokens of the synthetic text to train on.
        validation_tokens: tokens of the synthetic text to validate on.
        synthetic_seed: of the synthetic text.
        cache_dir: folder, relative to `PACELINE_HOME` or the current folder, for the prepared tokens.

    Raises:
        DataError: an argument is out of range, or the data cannot be used.
    """

    provides = ("vocabulary_size", "sequence_length")  # what a model has to know of the data
    batch_size = 32  # of the loaders below; a benchmark brings its own sampler

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
        """Build the cache if it is not there. Any number of processes may call this at once."""
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
        """Map the cache into memory; needs `prepare_data` to have run on this machine."""
        if self._prepared is None:
            self.prepare_data()
        prepared, length = self._ready, self.sequence_length
        train, validation = (prepared.about[f"{split}_tokens"] for split in ("train", "validation"))
        self.train_dataset = SequenceDataset(prepared.tokens_file, 0, train, length)
        self.validation_dataset = SequenceDataset(
            prepared.tokens_file, train, train + validation, length
        )

    def train_dataloader(self) -> DataLoader[TokenBatch]:
        """Shuffled batches of `batch_size`."""
        return self._loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[TokenBatch]:
        """Batches of `batch_size` in the order of the text."""
        return self._loader(self.validation_dataset, shuffle=False)

    @property
    def vocabulary(self) -> list[str]:
        """The text of every token."""
        return list(self._about["vocabulary"])

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are."""
        return len(self._about["vocabulary"])

    @property
    def evaluation_batch(self) -> int:
        """Sequences to evaluate at once: logits of a whole vocabulary take memory."""
        return max(1, EVALUATED_LOGITS // (self.sequence_length * self.vocabulary_size))

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of the tokens, the vocabulary and how the tokens are cut."""
        split = [self._about["train_tokens"], self._about["validation_tokens"]]
        return cache.digest([self._about["content"], split, self.sequence_length])

    @property
    def description(self) -> dict[str, str | int | float]:
        """Facts for a trial's record; rows are sequences, and losses are nats a token.

        `constant_log_loss` is that of always predicting the training tokens' frequencies, on the
        validation tokens; `bayes_log_loss`, of the synthetic text only, the lowest expected loss on
        sequences of this length, which nears the `entropy_rate` as they grow longer.
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
