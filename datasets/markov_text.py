"""The embedded default: text of a Markov chain of order 2, whose entropy rate is known.

The next symbol c is drawn from P[a, b, c], where a and b are the two symbols before it. P is the mean of
a table of order 1, which a model learns quickly, and a table of order 2, which takes longer to learn.
Both are drawn from a Dirichlet distribution. P is mixed with a small part of the uniform distribution,
so that every pair can be reached from every other pair. With the stationary distribution pi[a, b] of the
pairs, the entropy rate in nats per symbol is

    h = - sum_abc pi[a, b] P[a, b, c] log P[a, b, c]

(Cover and Thomas, Elements of Information Theory, theorem 4.2.4). It is the lowest expected loss of any
model that has seen the two symbols before.
"""

from bisect import bisect
from collections.abc import Iterator
from string import ascii_lowercase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RECIPE_VERSION = 1  # raise it when the same seed gives other text
SYMBOLS = ascii_lowercase
CONCENTRATION = 0.05  # of the Dirichlet distribution: few symbols are likely after a pair
UNIFORM_SHARE = 0.01
BLOCK = 1 << 16  # symbols
_TABLE, _TRAIN, _VALIDATION = range(3)
_STREAMS = {"train": _TRAIN, "validation": _VALIDATION}


class MarkovText:
    """The source of the synthetic text.

    Attributes:
        table: P, float64 [V, V, V].
        pairs: pi, float64 [V, V].

    Args:
        seed: the seed of the table and of the text.
    """

    def __init__(self, seed: int) -> None:
        self.seed, symbols = seed, len(SYMBOLS)
        generator = np.random.default_rng((seed, _TABLE))
        alphas = np.full(symbols, CONCENTRATION)
        first, second = (generator.dirichlet(alphas, n) for n in (symbols, (symbols, symbols)))
        self.table = (1 - UNIFORM_SHARE) * (first + second) / 2 + UNIFORM_SHARE / symbols
        self.pairs = _stationary(self.table)

    @property
    def entropy_rate(self) -> float:
        """The entropy rate h in nats per symbol."""
        return float(-(self.pairs[..., None] * self.table * np.log(self.table)).sum())

    def lowest_loss(self, length: int) -> float:
        """Returns the lowest expected loss in nats per symbol on sequences of `length` predictions.

        The first prediction in a sequence is made from one symbol, and the others from two or more.
        """
        conditional = self.pairs / self.pairs.sum(axis=1, keepdims=True)
        first = float(-(self.pairs * np.log(conditional)).sum())
        return (first + (length - 1) * self.entropy_rate) / length

    def blocks(
        self, split: Literal["train", "validation"], count: int
    ) -> Iterator[NDArray[np.int32]]:
        """Yields `count` symbols in blocks, as numbers from 0.

        A shorter text is the start of a longer one.
        """
        generator = np.random.default_rng((self.seed, _STREAMS[split]))
        symbols = len(SYMBOLS)
        cumulative = self.table.cumsum(axis=2)
        cumulative[..., -1] = 1.0  # rounding must not leave a gap
        rows = cumulative.reshape(symbols**2, symbols).tolist()
        pair = int(np.searchsorted(self.pairs.cumsum(), generator.random()))
        for start in range(0, count, BLOCK):
            block = []
            for draw in generator.random(min(BLOCK, count - start)).tolist():
                symbol = bisect(rows[pair], draw)
                block.append(symbol)
                pair = pair % symbols * symbols + symbol
            yield np.array(block, dtype=np.int32)


def _stationary(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the stationary distribution of the pairs, which a step does not change, float64 [V, V]."""
    before, pairs = np.zeros(table.shape[:2]), np.full(table.shape[:2], 1 / table[..., 0].size)
    while np.abs(pairs - before).sum() > 1e-13:
        before, pairs = pairs, np.einsum("ab,abc->bc", pairs, table)
    distribution: NDArray[np.float64] = pairs / pairs.sum()
    return distribution
