"""Converts text to a cache of tokens, which are words or characters, with their vocabulary.

A corpus is read once, in blocks of whole lines, and encoded with provisional numbers. Words are numbered
in order of appearance. The number of a character is its code point. Then the vocabulary is made from the
training tokens only, and every token is rewritten in place. Memory holds only a block and the vocabulary,
so a corpus can be larger than the memory.
"""

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from paceline.datasets.markov_text import RECIPE_VERSION, SYMBOLS, MarkovText
from paceline.datasets.reading import cache
from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.files import opened, ordered, states
from paceline.datasets.reading.parts import by_part
from paceline.datasets.reading.vocabulary import Tokens, number

Level = Literal["auto", "word", "character"]

ENCODING_VERSION = 2  # raise it when the same text gives other tokens
BLOCK_BYTES = 1 << 20
END_OF_LINE = "<eos>"
TEXT_FILES = re.compile(r"[^.].*\.(txt|tokens|raw)(\.gz)?")
ADVICE = "name a text file, or a folder of *.txt, *.tokens or *.raw (or .gz of these), with --data"


class Words:
    """Encodes words, which are separated by white space. Every line ends with the token `<eos>`."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict()
        self._numbers.default_factory = self._numbers.__len__

    def encode(self, text: str) -> Tokens:
        """Returns the provisional numbers of a text of whole lines."""
        if not text.endswith("\n"):
            text += "\n"
        words = text.replace("\n", f" {END_OF_LINE} ").split()
        return np.fromiter(map(self._numbers.__getitem__, words), np.int32, len(words))

    def names(self) -> list[str]:
        """Returns the word of every number."""
        return list(self._numbers)


class Characters:
    """Encodes characters. The end of a line is a character, too. A Windows line end becomes one `\\n`."""

    def encode(self, text: str) -> Tokens:
        """Returns the code points of a text."""
        return np.frombuffer(text.replace("\r\n", "\n").encode("utf-32-le"), "<i4")

    def names(self) -> Sequence[str]:
        """Returns the character of every number."""
        return "".join(map(chr, range(0x110000)))


class Corpus(ABC):
    """A source of training tokens, followed by validation tokens.

    Attributes:
        synthetic: whether the text is drawn at random.
    """

    synthetic: bool

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the corpus in a record."""

    @abstractmethod
    def key(self) -> str:
        """Returns the key of its cache entry. The key changes whenever the tokens may change."""

    @abstractmethod
    def blocks(self) -> Iterator[Tokens]:
        """Yields all tokens as provisional numbers, block by block."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Returns the text of every provisional number. It is complete after `blocks` has ended."""

    @abstractmethod
    def train_tokens(self, tokens: int) -> int:
        """Returns how many of the `tokens` tokens are for training. They come first."""


class Synthetic(Corpus):
    """The training text of a Markov chain, followed by its validation text."""

    name = "synthetic Markov text"
    synthetic = True

    def __init__(self, seed: int, train_tokens: int, validation_tokens: int) -> None:
        self._recipe = (RECIPE_VERSION, seed, train_tokens, validation_tokens)
        self._seed, self._train, self._validation = seed, train_tokens, validation_tokens

    def key(self) -> str:
        return cache.digest([self._recipe, ENCODING_VERSION])

    def blocks(self) -> Iterator[Tokens]:
        text = MarkovText(self._seed)
        yield from text.blocks("train", self._train)
        yield from text.blocks("validation", self._validation)

    def names(self) -> Sequence[str]:
        return SYMBOLS

    def train_tokens(self, tokens: int) -> int:
        return self._train


class TextFiles(Corpus):
    """The text of a file, of a folder with one file per split, or of a folder of shards.

    Args:
        path: the path of the file or folder.
        level: whether a token is a word or a character. `auto` reads characters from a file and words
            from a folder.
        validation_fraction: the fraction of the tokens to validate on. They are the last tokens. It is
            used only if there is no validation file.

    Raises:
        DataError: the path cannot be read, there is no text, or the names of the files are ambiguous.
    """

    synthetic = False

    def __init__(self, path: Path, level: Level, validation_fraction: float) -> None:
        self._path, self._fraction = path, validation_fraction
        self._train, self._validation = find_files(path)
        word = level == "word" or (level == "auto" and path.is_dir())
        self._encoder = Words() if word else Characters()
        self._states = states(self._files)
        self._train_tokens = 0

    @property
    def _files(self) -> list[Path]:
        return [*self._train, *self._validation]

    @property
    def name(self) -> str:
        files = self._files
        shown = [file.name for file in files[:3]] + ["..."] * (len(files) > 3)
        return f"{', '.join(shown)} ({type(self._encoder).__name__.lower()})"

    def key(self) -> str:
        kind = type(self._encoder).__name__
        split = len(self._train) if self._validation else self._fraction
        return cache.digest([self._states, kind, split, ENCODING_VERSION])

    def blocks(self) -> Iterator[Tokens]:
        self._train_tokens = 0
        for file in self._files:
            tokens = 0
            for text in _texts(file):
                block = self._encoder.encode(text)
                tokens += len(block)
                yield block
            if not tokens:
                raise DataError(f"{file} is empty; put text into it, or remove it")
            self._train_tokens += tokens if file in self._train else 0
        if states(self._files) != self._states:
            raise DataError(f"{self._path} changed while it was read; run again when it rests")

    def names(self) -> Sequence[str]:
        return self._encoder.names()

    def train_tokens(self, tokens: int) -> int:
        return self._train_tokens if self._validation else round(tokens * (1 - self._fraction))


def find_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Returns the training files and the validation files.

    If the files of a folder are named after splits, each file is used as its name says, and test files
    are not read. In any other folder, every text file is a shard. There are then no validation files, and
    a part of the tokens is used for validation. This is also so for a single file.

    Raises:
        DataError: there is no text, or a split is missing or exists twice.
    """
    with explained(f"cannot read {path}", ADVICE):
        path.stat()
        if not path.is_dir():
            return [path], []
        files = [file for file in path.iterdir() if TEXT_FILES.fullmatch(file.name)]
    if not files:
        raise DataError(f"{path} has no text files; {ADVICE}")
    parts = by_part(files)
    if parts.others == ordered(files):
        return parts.others, []
    for split, found in (("train", parts.train), ("valid", parts.validation)):
        if not found:
            beside = ", ".join(sorted(file.name for file in files)[:3])
            raise DataError(
                f"{path} has {beside}, but no file {split}.txt or *.{split}.txt (or .gz of these);"
                " add it, or name another folder with --data"
            )
    return parts.train, parts.validation


def _texts(file: Path) -> Iterator[str]:
    """Yields blocks of whole lines of about `BLOCK_BYTES`. A byte-order mark at the start is removed."""
    lines = place = 0
    with opened(file) as stream:
        while block := stream.read(BLOCK_BYTES) + stream.readline():
            try:
                text = block.decode()
            except UnicodeDecodeError as error:
                line = lines + block.count(b"\n", 0, error.start) + 1
                raise DataError(
                    f"{file}, line {line}, byte {place + error.start}: 0x{block[error.start]:02x}"
                    " is not UTF-8; convert the file, with iconv say"
                ) from error
            text = text.removeprefix("\ufeff") if not place else text
            lines += block.count(b"\n")
            place += len(block)
            if text:
                yield text


class Prepared(NamedTuple):
    """A cache entry: its folder and the facts about its tokens."""

    entry: Path
    about: dict[str, Any]

    @property
    def tokens_file(self) -> Path:
        """The file of tokens, int32 [n, 1]: the training tokens, followed by the validation tokens."""
        return self.entry / cache.ROWS_FILE


def prepare(corpus: Corpus, max_vocabulary: int | None, cache_dir: Path) -> Prepared:
    """Returns the cache entry of `corpus`. It is built if it does not exist.

    `about` has the keys `vocabulary` (the text of every token), `train_tokens`, `validation_tokens`,
    `content` (a hash of the tokens and the vocabulary) and `constant_log_loss` (the loss on the
    validation part, in nats per token, of always predicting the frequencies of the training part).

    Raises:
        DataError: the text cannot be used.
    """
    key = cache.digest([corpus.key(), max_vocabulary])

    def find() -> Path | None:
        return cache_dir / key if (cache_dir / key).exists() else None

    def build(partial: Path) -> str:
        file = partial / cache.ROWS_FILE
        blocks = (block[:, None] for block in corpus.blocks())
        total = cache.write_rows(file, blocks, columns=1)
        tokens = np.load(file, mmap_mode="r+")[:, 0]
        facts = number(tokens, corpus.train_tokens(total), corpus.names(), max_vocabulary)
        tokens.flush()
        cache.write_json(partial / cache.ABOUT_FILE, facts)
        return key

    entry = cache.find_or_build(cache_dir, f"corpus-{key}", find, build)
    return Prepared(entry, cache.read_json(entry / cache.ABOUT_FILE) or {})
