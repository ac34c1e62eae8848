"""Ratios, their intervals and churn, on examples computed by hand."""

import math

import numpy as np
import pytest

from paceline.reports.measures.statistics import churn, disagreement, ratio


def test_a_ratio_is_the_geometric_mean_of_the_pairs() -> None:
    found = ratio([2.0, 8.0], [1.0, 1.0], paired=True)
    assert found.value == pytest.approx(4.0)
    # Two pairs resampled: both the first, both the second, or one of each.
    assert (found.low, found.high) == (pytest.approx(2.0), pytest.approx(8.0))
    assert found.differs


def test_an_interval_that_covers_one_says_nothing_is_less() -> None:
    assert not ratio([2.0, 0.5, 1.1], [1.0, 1.0, 1.0], paired=True).differs
    assert ratio([0.5, 0.6, 0.4], [1.0, 1.0, 1.0], paired=True).differs


def test_pairs_share_what_varies_between_seeds() -> None:
    """Seeds vary a hundredfold here and the ratio hardly: pairing sees it, and no pairing does not."""
    of, against = [1.1, 10.8, 109.0], [1.0, 10.0, 100.0]
    assert ratio(of, against, paired=True).low > 1
    assert ratio(of, against, paired=False).low < 1


def test_one_repetition_has_no_interval() -> None:
    alone = ratio([2.0], [1.0], paired=True)
    assert alone.value == 2
    assert math.isnan(alone.low)
    assert not alone.differs
    assert str(alone) == "2 (one seed)"


def test_equal_figures_have_an_interval_of_no_width() -> None:
    found = ratio([3.0, 3.0], [6.0, 6.0], paired=True)
    assert found.low == found.value == found.high == pytest.approx(0.5)


def test_the_interval_is_the_same_every_time() -> None:
    figures = ([1.0, 1.4, 1.2, 0.9, 1.3], [1.0, 1.1, 0.8, 1.0, 1.2])
    assert ratio(*figures, paired=True) == ratio(*figures, paired=True)


@pytest.mark.parametrize("wrong", [([], [1.0]), ([0.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_what_has_no_ratio_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"ratio needs positive|cannot be paired"):
        ratio(*wrong, paired=True)


def test_churn_of_two_classes_is_the_same_in_both_forms() -> None:
    first, second = np.array([0.2, 0.9, 0.6]), np.array([0.4, 0.8, 0.3])
    assert churn(first, second) == pytest.approx((0.2 + 0.1 + 0.3) / 3)
    both = [np.stack([p, 1 - p], axis=1) for p in (first, second)]
    assert churn(*both) == pytest.approx(churn(first, second))
    assert disagreement(first, second) == pytest.approx(1 / 3)
    assert disagreement(*both) == pytest.approx(1 / 3)
    assert churn(first, first) == disagreement(first, first) == 0
