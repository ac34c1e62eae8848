"""Ratios, their intervals and churn, on examples computed by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from paceline.reports.measures.statistics import (
    churn,
    churn_ratio,
    differing,
    disagreement,
    distances,
    pseudo_values,
    ratio,
)


def seeded(*figures: float, first: int = 0) -> dict[int, float]:
    return dict(enumerate(figures, start=first))


def test_a_ratio_of_pairs_has_students_interval_on_logs() -> None:
    found = ratio(seeded(2.0, 8.0), seeded(1.0, 1.0))
    assert found.value == pytest.approx(4.0)
    # The logs are 1 and 3 times that of 2, so their mean has a standard error of log 2; t is 12.706.
    assert found.high == pytest.approx(4.0 * 2**12.706, rel=1e-3)
    assert found.low == pytest.approx(4.0 / 2**12.706, rel=1e-3)
    assert found.p == pytest.approx(ttest_1samp(np.log([2.0, 8.0]), 0).pvalue)
    assert not found.differs


def test_seeds_that_no_pair_shares_have_welchs_interval() -> None:
    of, against = [1.0, 1.4, 1.2, 0.9], [1.7, 2.9, 1.9]
    found = ratio(seeded(*of), seeded(*against, first=10))
    known = ttest_ind(np.log(of), np.log(against), equal_var=False)
    ends = known.confidence_interval()
    assert found.p == pytest.approx(known.pvalue)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((ends.low, ends.high))
    assert (found.repetitions, found.note) == (3, "seeds not paired")


def test_where_seeds_do_not_matter_all_repetitions_count_and_none_is_paired() -> None:
    of, against = [1.0, 1.4, 1.2, 0.9], [1.7, 2.9, 1.9]
    found = ratio(seeded(*of), seeded(*against), seeds_matter=False)
    assert found == replace(ratio(seeded(*of), seeded(*against, first=10)), note="")


def test_seeds_on_one_side_alone_are_left_out_of_the_pairs_and_named() -> None:
    found = ratio({0: 2.0, 1: 8.0, 2: 99.0, 5: 1.0}, {1: 1.0, 0: 1.0})
    assert (found.value, found.repetitions) == (pytest.approx(4.0), 2)
    assert str(found).endswith("] (without seeds 2, 5)")


def test_pairs_share_what_varies_between_seeds() -> None:
    """Seeds vary a hundredfold here and the ratio hardly: pairing sees it, and no pairing does not."""
    of, against = seeded(1.1, 10.8, 109.0), [1.0, 10.0, 100.0]
    assert ratio(of, seeded(*against)).low > 1
    assert ratio(of, seeded(*against, first=3)).low < 1


def test_it_is_the_seed_that_pairs_and_not_the_order() -> None:
    assert ratio({0: 1.1, 1: 10.8, 2: 109.0}, {2: 100.0, 0: 1.0, 1: 10.0}).low > 1


def test_an_interval_that_covers_one_says_nothing_is_less() -> None:
    assert not ratio(seeded(2.0, 0.5, 1.1), seeded(1.0, 1.0, 1.0)).differs
    assert ratio(seeded(0.5, 0.6, 0.4), seeded(1.0, 1.0, 1.0)).differs


@pytest.mark.parametrize("first", [0, 10])
def test_one_repetition_has_no_interval(first: int) -> None:
    alone = ratio({0: 2.0}, {first: 1.0})
    assert alone.value == 2
    assert math.isnan(alone.low)
    assert math.isnan(alone.p)
    assert not alone.differs
    assert str(alone) == "2 (one seed)"


def test_two_seeds_far_apart_leave_everything_open() -> None:
    found = ratio(seeded(1e-30, 1e30), seeded(1.0, 1.0))
    assert (found.low, found.high) == (0, math.inf)


@pytest.mark.parametrize("first", [0, 10])
def test_figures_that_do_not_vary_have_an_interval_of_no_width(first: int) -> None:
    found = ratio(seeded(3.0, 3.0, 3.0), seeded(6.0, 6.0, 6.0, first=first))
    assert found.low == found.value == found.high == pytest.approx(0.5)
    assert found.p == 0
    equal = ratio(seeded(0.3, 0.3, 0.3), seeded(0.3, 0.3, 0.3, first=first))
    assert (equal.p, equal.differs) == (1, False)


@pytest.mark.parametrize(
    ("of", "shown"),
    [
        (seeded(0.0, 1.0), "no ratio (a figure that is not positive: seed 0)"),
        (seeded(-1.0, -2.0), "no ratio (a figure that is not positive: seeds 0, 1)"),
        (seeded(1.0, math.nan), "no ratio (no figure: seed 1)"),
        ({}, "no ratio (no figure)"),
    ],
)
def test_what_has_no_logarithm_has_no_ratio_and_says_why(of: dict[int, float], shown: str) -> None:
    for found in (ratio(of, seeded(1.0, 1.0)), ratio(seeded(1.0, 1.0), of)):
        assert str(found) == shown
        assert not found.differs
        assert differing([found.p]) == [False]


def test_of_several_ratios_only_those_differ_that_holms_procedure_keeps() -> None:
    # 0.01 <= 0.05 / 3 and 0.02 <= 0.05 / 2; then 0.06 > 0.05.
    assert differing([0.06, 0.01, 0.02]) == [False, True, True]
    # 0.02 > 0.05 / 3 ends it, though 0.024 <= 0.05 / 2.
    assert differing([0.02, 0.024, 0.04]) == [False, False, False]
    assert differing([0.04, ratio(seeded(2.0), seeded(1.0)).p]) == [True, False]


def test_churn_of_two_classes_is_the_same_in_both_forms() -> None:
    first, second = np.array([0.2, 0.9, 0.6]), np.array([0.4, 0.8, 0.3])
    assert churn(first, second) == pytest.approx((0.2 + 0.1 + 0.3) / 3)
    both = [np.stack([p, 1 - p], axis=1) for p in (first, second)]
    assert churn(*both) == pytest.approx(churn(first, second))
    assert disagreement(first, second) == pytest.approx(1 / 3)
    assert disagreement(*both) == pytest.approx(1 / 3)
    assert churn(first, first) == disagreement(first, first) == 0


def predictions(*constants: float) -> dict[int, np.ndarray]:
    return {seed: np.full(4, p, dtype=np.float64) for seed, p in enumerate(constants)}


def test_pseudo_values_are_the_jackknifes() -> None:
    apart = distances(predictions(0.1, 0.2, 0.5, 0.6))
    logs = {(i, j): math.log(apart[i, j]) for i in range(4) for j in range(i)}
    whole = sum(logs.values()) / 6
    without = [sum(v for pair, v in logs.items() if i not in pair) / 3 for i in range(4)]
    spread = [3 * (sum(without) / 4 - one) for one in without]
    assert pseudo_values(apart) == pytest.approx([whole + one for one in spread])


def test_a_ratio_of_churns_is_over_seeds_and_takes_three() -> None:
    near, far = predictions(0.1, 0.2, 0.4), predictions(0.1, 0.3, 0.9)
    found = churn_ratio(near, far)
    # Pairs are 0.1, 0.2, 0.3 and 0.2, 0.6, 0.8 apart.
    assert found.value == pytest.approx((0.006 / 0.096) ** (1 / 3))
    assert found.repetitions == 3
    differences = pseudo_values(distances(near)) - pseudo_values(distances(far))
    assert found.p == pytest.approx(ttest_1samp(differences, 0).pvalue)
    two = churn_ratio(predictions(0.1, 0.2), predictions(0.1, 0.3))
    assert str(two) == "0.5 (two seeds)"
    assert not two.differs


def test_seeds_of_churn_pair_where_three_are_shared() -> None:
    near, far = predictions(0.1, 0.2, 0.4), predictions(0.1, 0.3, 0.9, 0.0)
    assert churn_ratio(near, far).note == "without seed 3"
    moved = {seed + 2: p for seed, p in far.items()}
    assert churn_ratio(near, moved).note == "seeds not paired"


def test_retrains_that_are_equal_or_none_have_no_ratio() -> None:
    three = predictions(0.1, 0.2, 0.4)
    assert str(churn_ratio(three, predictions(0.1, 0.1, 0.2))) == (
        "no ratio (retrains that are equal have a churn of 0)"
    )
    assert str(churn_ratio(three, predictions(0.1))) == "no ratio (one seed has no retrains)"
