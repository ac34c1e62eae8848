"""From text to a cache of tokens: files, words or characters, and the vocabulary.

A corpus is read once, in blocks of whole lines, and encoded with provisional numbers: words in the order
in which they appear, characters by code point. The vocabulary is then made from the training tokens
alone and every token rewritten in place, so that memory holds a block and the vocabulary, and the tokens
may be more than it could hold.
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
    """Words are what white space separates, and every line ends in `<eos>`."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict()
        self._numbers.default_factory = self._numbers.__len__

    def encode(self, text: str) -> Tokens:
        """The provisional numbers of a text of whole lines."""
        if not text.endswith("\n"):
            text += "\n"
        words = text.replace("\n", f" {END_OF_LINE} ").split()
        return np.fromiter(map(self._numbers.__getitem__, words), np.int32, len(words))

    def names(self) -> list[str]:
        """The word of every number."""
        return list(self._numbers)


class Characters:
    """Every character is a token, the end of a line too; a Windows line end is one `\\n`."""

    def encode(self, text: str) -> Tokens:
        """The code points of a text."""
        return np.frombuffer(text.replace("\r\n", "\n").encode("utf-32-le"), "<i4")

    def names(self) -> Sequence[str]:
        """The character of every number."""
        return "".join(map(chr, range(0x110000)))


class Corpus(ABC):
    """A source of training tokens and, behind them, validation tokens.

    Attributes:
        synthetic: whether it was drawn.
    """

    synthetic: bool

    @property
    @abstractmethod
    def name(self) -> str:
        """What a record calls it."""

    @abstractmethod
    def key(self) -> str:
        """The name of its cache entry: another one whenever the tokens may be others."""

    @abstractmethod
    def blocks(self) -> Iterator[Tokens]:
        """All tokens, in provisional numbers."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """The text of every provisional number, once `blocks` has ended."""

    @abstractmethod
    def train_tokens(self, tokens: int) -> int:
        """How many of `tokens` tokens, from the start, train."""


class Synthetic(Corpus):
    """Training and then validation text of a Markov chain."""

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
    """Text of a file, of a folder with a file a split, or of a folder of shards.

    Args:
        path: of the file or folder.
        level: what a token is; `auto` is a character of a file and a word of a folder.
        validation_fraction: the last part of the tokens, to validate on, where no file is for it.

    Raises:
        DataError: the files cannot be told apart.
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
    """The files to train on and those to validate on, none where a part of the former is for that.

    In a folder whose files are named after splits, each is used as what its name says; test files are
    not read. In any other folder every text file is a shard.

    Raises:
        DataError: there is no text, or a split is missing or there twice.
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
    """Whole lines, about `BLOCK_BYTES` at a time, without the byte-order mark that a file begins with."""
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
    """A cache entry: its folder and what is known of its tokens."""

    entry: Path
    about: dict[str, Any]

    @property
    def tokens_file(self) -> Path:
        """int32 [n, 1]: the tokens to train on and then those to validate on."""
        return self.entry / cache.ROWS_FILE


def prepare(corpus: Corpus, max_vocabulary: int | None, cache_dir: Path) -> Prepared:
    """The cache entry of `corpus`, built if it is not there; `about` has these keys.

    `vocabulary` (the text of every token), `train_tokens`, `validation_tokens`, `content` (a hash of
    the tokens and the vocabulary), `constant_log_loss` (nats a token of the validation part, of always
    predicting the training part's frequencies).

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
