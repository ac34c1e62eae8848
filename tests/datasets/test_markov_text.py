"""The synthetic text: its entropy rate, its bounds, and that it is always the same."""

import numpy as np
import pytest

from paceline.datasets.markov_text import BLOCK, SYMBOLS, MarkovText


@pytest.fixture(scope="module")
def source() -> MarkovText:
    return MarkovText(seed=0)


def test_the_entropy_rate_is_that_of_the_text(source: MarkovText) -> None:
    text = np.concatenate(list(source.blocks("train", 400_000)))
    before, last, following = text[:-2], text[1:-1], text[2:]
    surprise = -np.log(source.table[before, last, following])
    assert surprise.mean() == pytest.approx(source.entropy_rate, abs=0.01)
    # Of what is seen of the text alone, too: pairs and triples, counted.
    triples = np.bincount((before * 26 + last) * 26 + following, minlength=26**3) / len(before)
    pairs = triples.reshape(-1, 26).sum(axis=1)
    entropies = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (triples, pairs)]
    assert entropies[0] - entropies[1] == pytest.approx(source.entropy_rate, abs=0.02)
    assert np.abs(pairs - source.pairs.flatten()).sum() < 0.05


def test_the_lowest_loss_counts_the_first_symbol_of_a_sequence(source: MarkovText) -> None:
    assert source.lowest_loss(1) > source.lowest_loss(10) > source.entropy_rate
    excess = source.lowest_loss(10) - source.entropy_rate
    assert excess == pytest.approx((source.lowest_loss(1) - source.entropy_rate) / 10)
    # Given one symbol alone, the next comes with the frequency of the pair.
    text = np.concatenate(list(source.blocks("validation", 200_000)))
    conditional = source.pairs / source.pairs.sum(axis=1, keepdims=True)
    surprise = -np.log(conditional[text[:-1], text[1:]]).mean()
    assert surprise == pytest.approx(source.lowest_loss(1), abs=0.01)


def test_the_synthetic_text_is_the_same_again_and_for_any_length(source: MarkovText) -> None:
    long, short = (
        np.concatenate(list(MarkovText(0).blocks("train", count))) for count in (BLOCK + 99, 500)
    )
    assert np.array_equal(long[:500], short)
    assert len(long) == BLOCK + 99
    assert "".join(SYMBOLS[i] for i in short[:40]) == ("nxwgbsaslboexwgflcgfosexhsbprslxzsafocoi")
    assert not np.array_equal(next(source.blocks("validation", 500)), short)
    assert not np.array_equal(next(MarkovText(1).blocks("train", 500)), short)
