"""The embedded default: a synthetic click log with the shape of Criteo's challenge log.

Every row is drawn at random. No row comes from a person. The numbers of distinct values and the click
rate are those published about the challenge. The rates of missing values, and the medians and 90th
percentiles of the integers, are approximations from the first rows of its log. The labels are drawn from
a hidden teacher: a factorisation machine (Rendle, 2010) plus a multi-layer perceptron. So the true click
probability of every row is known, and so is the lowest log loss that any model can reach.

The rows are drawn in blocks of `BLOCK_ROWS`. Each block has its own random stream, which depends on the
seed, the split and the number of the block. The rows therefore do not depend on the number of rows, the
number of readers or the order of reading.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.datasets.reading.criteo_format import CATEGORIES, INTEGERS, ClickRows, mix, to_text

Float = NDArray[np.float64]
Split = Literal["train", "validation", "test"]

RECIPE_VERSION = 1  # raise it when the same seed gives other rows
BLOCK_ROWS = 8192
CLICK_RATE = 0.25

# Distinct values in the challenge's 45.8 million rows. A log of about a million rows shows about
# 1/46 as many, but fields of up to 100 values show them all.
# fmt: off
CHALLENGE_CARDINALITIES = np.array([
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
])
# fmt: on
CARDINALITIES = np.maximum(np.minimum(CHALLENGE_CARDINALITIES, 100), CHALLENGE_CARDINALITIES // 46)
ZIPF_EXPONENT = 1.15

# The approximate shares of missing values.
CATEGORY_MISSING = np.zeros(CATEGORIES)
CATEGORY_MISSING[[2, 3, 11, 15, 20, 23]] = 0.034  # C3 C4 C12 C16 C21 C24
CATEGORY_MISSING[5] = 0.12
CATEGORY_MISSING[[18, 19, 24, 25]] = 0.44  # C19 C20 C25 C26
CATEGORY_MISSING[21] = 0.76
INTEGER_MISSING = np.array(
    [0.45, 0.0, 0.21, 0.22, 0.026, 0.22, 0.043, 0.0005, 0.043, 0.45, 0.043, 0.77, 0.22]
)
# Approximate median and 90th percentile of 1 + x, which is log-normal. I2 can be negative.
INTEGER_MEDIAN = np.array([2.0, 4.0, 7.0, 5.0, 2800.0, 41.0, 4.0, 8.0, 42.0, 1.5, 2.5, 1.3, 6.0])
INTEGER_P90 = np.array(
    [9.0, 190.0, 52.0, 21.0, 33000.0, 340.0, 30.0, 36.0, 310.0, 2.5, 6.0, 3.0, 28.0]
)
INTEGER_SHIFT = np.array([0, 2, *[0] * 11])
_MU = np.log(INTEGER_MEDIAN)
_SIGMA = np.log(INTEGER_P90 / INTEGER_MEDIAN) / 1.2816  # the normal's 90th percentile

_TEACHER, _TRAIN, _VALIDATION, _CALIBRATION, _TEST = range(5)
_STREAMS = {"train": _TRAIN, "validation": _VALIDATION, "test": _TEST}


class LabelledRows(NamedTuple):
    """Rows of the log, and the click probability that each label was drawn with, float64 [n]."""

    rows: ClickRows
    probability: Float

    def head(self, rows: int) -> "LabelledRows":
        """Returns the first `rows` rows."""
        return LabelledRows(self.rows.head(rows), self.probability[:rows])


class ClickLog:
    """The synthetic click log of one seed. It is endless and is drawn in blocks.

    Args:
        seed: the seed of the teacher and of the rows.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._teacher = _Teacher(_generator(seed, _TEACHER), *_draw(_generator(seed, _CALIBRATION)))

    def block(self, split: Split, number: int) -> LabelledRows:
        """Returns block `number` of a split, which has `BLOCK_ROWS` rows."""
        generator = _generator(self.seed, _STREAMS[split], number)
        integers, ranks = _draw(generator)
        probability = self._teacher.probability(integers, ranks)
        label = (generator.random(BLOCK_ROWS) < probability).astype(np.uint8)
        integers_missing = np.isnan(integers)
        categories_missing = ranks < 0
        rows = ClickRows(
            label,
            np.where(integers_missing, 0, integers).astype(np.int64),
            integers_missing,
            np.where(categories_missing, 0, mix(ranks.astype(np.uint32))).astype(np.uint32),
            categories_missing,
        )
        return LabelledRows(rows, probability)

    def blocks(self, split: Split, rows: int) -> Iterator[LabelledRows]:
        """Yields the first `rows` rows of a split, block by block."""
        for number, start in enumerate(range(0, rows, BLOCK_ROWS)):
            yield self.block(split, number).head(rows - start)

    def write_text(self, file: Path, split: Split, rows: int) -> None:
        """Writes the first `rows` rows of a split in the challenge's tab-separated format."""
        with file.open("wb") as stream:
            for block in self.blocks(split, rows):
                stream.write(to_text(block.rows))


def log_loss(block: LabelledRows) -> float:
    """Returns the sum of -log(probability of the drawn label) over the rows, in nats."""
    label, probability = block.rows.label, block.probability
    return float(-np.log(np.where(label, probability, 1 - probability)).sum())


class _Teacher:
    """The model that draws the labels: click probability = sigmoid(parts @ weights + bias).

    The three parts are a linear model, a factorisation machine (FM) and a multi-layer perceptron (MLP).
    The effect of each value is drawn once. Frequent values have larger effects, so that a model can
    learn them. The weights and the bias are chosen on a calibration block so that `SHARES`, `SPREAD` and
    `CLICK_RATE` hold.
    """

    FACTORS = 4
    HIDDEN = 16
    SHARES = np.array([1.0, 0.6, 0.6])  # relative standard deviations of the parts
    SPREAD = 1.45  # standard deviation of the logit

    def __init__(self, generator: np.random.Generator, integers: Float, ranks: Float) -> None:
        self._first = np.cumsum(CARDINALITIES) - CARDINALITIES  # row of each field's rank 0
        # The effect of rank r of a field is proportional to (1 + r / 32)^-1/2.
        strength = np.concatenate([(1 + np.arange(n) / 32) ** -0.5 for n in CARDINALITIES])
        size = (len(strength), 1 + self.FACTORS)
        self._values = strength[:, None] * generator.standard_normal(size)
        self._dense = generator.standard_normal((INTEGERS, 1 + self.FACTORS))
        self._absent = generator.standard_normal(INTEGERS)
        self._hidden = generator.standard_normal((INTEGERS + self.FACTORS, self.HIDDEN))
        self._output = generator.standard_normal(self.HIDDEN)
        parts = self._parts(integers, ranks)
        weights = self.SHARES / parts.std(0)
        self._weights = weights * self.SPREAD / (parts @ weights).std()
        self._bias = _bias_for(parts @ self._weights, CLICK_RATE)

    def probability(self, integers: Float, ranks: Float) -> Float:
        """Returns click probabilities [n] of integers [n, 13] and ranks [n, 26].

        A missing integer is NaN, and a missing rank is -1.
        """
        return _sigmoid(self._parts(integers, ranks) @ self._weights + self._bias)

    def _parts(self, integers: Float, ranks: Float) -> Float:
        absent = np.isnan(integers)
        standard = np.where(absent, 0, (np.log1p(integers + INTEGER_SHIFT) - _MU) / _SIGMA)
        present = ranks >= 0
        values = self._values[np.where(present, ranks, 0).astype(np.intp) + self._first]
        values *= present[..., None]
        linear = values[..., 0].sum(1) + standard @ self._dense[:, 0] + absent @ self._absent
        vectors = np.concatenate([values[..., 1:], standard[..., None] * self._dense[:, 1:]], 1)
        total = vectors.sum(1)
        machine = 0.5 * (total**2 - (vectors**2).sum(1)).sum(1)
        hidden = np.maximum(np.hstack([standard, total]) @ self._hidden, 0)
        return np.stack([linear, machine, hidden @ self._output], 1)


def _bias_for(score: Float, rate: float) -> float:
    """Finds by bisection the bias for which the mean probability of `score` is `rate`."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(score + middle).mean() < rate else (low, middle)
    return low


def _sigmoid(x: Float) -> Float:
    return 1 / (1 + np.exp(-x))


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *stream))))


def _draw(generator: np.random.Generator) -> tuple[Float, Float]:
    """Draws a block of integers [n, 13] and of ranks of values [n, 26].

    A missing integer is NaN, and a missing rank is -1.
    """
    normal = generator.standard_normal((BLOCK_ROWS, INTEGERS))
    integers = np.floor(np.exp(_MU + _SIGMA * normal)) - INTEGER_SHIFT
    integers[generator.random((BLOCK_ROWS, INTEGERS)) < INTEGER_MISSING] = np.nan
    uniform = generator.random((BLOCK_ROWS, CATEGORIES))
    missing = uniform < CATEGORY_MISSING
    ranks = _zipf((uniform - CATEGORY_MISSING) / (1 - CATEGORY_MISSING), missing)
    return integers, ranks


def _zipf(uniform: Float, missing: NDArray[np.bool_]) -> Float:
    """Draws ranks 0..CARDINALITIES-1 by inverting the distribution function of x^-ZIPF_EXPONENT."""
    power = 1 - ZIPF_EXPONENT
    share = np.where(missing, 0, uniform) * ((CARDINALITIES + 1.0) ** power - 1)
    ranks = np.minimum(np.floor((1 + share) ** (1 / power)), CARDINALITIES) - 1
    return np.where(missing, -1, ranks)
