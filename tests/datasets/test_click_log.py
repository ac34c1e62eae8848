"""The synthetic click log: its rows are fixed by its seed, and its teacher can be learnt from."""

import math
from pathlib import Path

import numpy as np
import pytest

from paceline.datasets import click_log
from paceline.datasets.click_log import BLOCK_ROWS, ClickLog, LabelledRows
from paceline.datasets.reading.criteo_format import FIELD_NAMES, ClickRows, encode, parse, to_text


@pytest.fixture(scope="module")
def log() -> ClickLog:
    return ClickLog(seed=0)


@pytest.fixture(scope="module")
def train(log: ClickLog) -> LabelledRows:
    blocks = list(log.blocks("train", 8 * BLOCK_ROWS))
    rows = ClickRows._make(
        np.concatenate(arrays) for arrays in zip(*(b.rows for b in blocks), strict=True)
    )
    return LabelledRows(rows, np.concatenate([block.probability for block in blocks]))


def equal(one: ClickRows, other: ClickRows) -> bool:
    return all(bool(np.all(a == b)) for a, b in zip(one, other, strict=True))


def test_a_shorter_log_is_the_start_of_a_longer_one(log: ClickLog) -> None:
    short = list(log.blocks("train", 1000))
    long = list(log.blocks("train", BLOCK_ROWS + 5))
    assert [len(block.rows.label) for block in long] == [BLOCK_ROWS, 5]
    assert equal(short[0].rows, long[0].rows.head(1000))


def test_blocks_do_not_depend_on_the_order_or_the_object_they_are_read_from(log: ClickLog) -> None:
    other = ClickLog(seed=0)
    third = other.block("train", 3)
    first = other.block("train", 0)
    assert equal(first.rows, log.block("train", 0).rows)
    assert equal(third.rows, log.block("train", 3).rows)


def test_seeds_splits_and_blocks_differ(log: ClickLog) -> None:
    block = log.block("train", 0).rows
    for other in (log.block("train", 1), log.block("validation", 0), ClickLog(1).block("train", 0)):
        assert not np.array_equal(block.categories, other.rows.categories)


def test_a_quarter_of_the_rows_are_clicks_and_the_teacher_knows_which(train: LabelledRows) -> None:
    label, probability = train.rows.label, train.probability
    rate = label.mean()
    constant = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert rate == pytest.approx(click_log.CLICK_RATE, abs=0.01)
    assert constant == pytest.approx(0.56, abs=0.01)
    assert 0.42 < click_log.log_loss(train) / len(label) < 0.45
    # Calibrated: among rows of about the same probability, that share of labels are clicks.
    for low in np.arange(0, 0.9, 0.1):
        chosen = (low <= probability) & (probability < low + 0.1)
        assert label[chosen].mean() == pytest.approx(probability[chosen].mean(), abs=0.03)


def test_log_loss_of_two_rows_by_hand() -> None:
    empty = np.zeros((2, 0))
    rows = ClickRows(np.array([1, 0], np.uint8), *[empty] * 4)  # type: ignore[arg-type]
    loss = click_log.log_loss(LabelledRows(rows, np.array([0.5, 0.75])))
    assert loss == pytest.approx(math.log(2) + math.log(4))


def test_missing_values_and_cardinalities_have_the_shape_of_the_challenge(
    train: LabelledRows,
) -> None:
    rows = train.rows
    assert rows.integers_missing.mean(0) == pytest.approx(click_log.INTEGER_MISSING, abs=0.01)
    assert rows.categories_missing.mean(0) == pytest.approx(click_log.CATEGORY_MISSING, abs=0.01)
    assert not rows.integers[rows.integers_missing].any()
    for field, cardinality in enumerate(click_log.CARDINALITIES):
        present = rows.categories[~rows.categories_missing[:, field], field]
        values, counts = np.unique(present, return_counts=True)
        assert len(values) <= cardinality
        assert counts.max() > 0.05 * len(present), FIELD_NAMES[14 + field]
        if cardinality <= 100:
            assert len(values) == cardinality
    assert rows.integers[:, 1].min() < 0 == rows.integers[:, 0].min()
    assert (np.median(rows.integers, 0) * 20 < rows.integers.max(0)).all()


def test_text_and_back_gives_the_same_rows_bit_for_bit(log: ClickLog, tmp_path: Path) -> None:
    rows = log.block("validation", 0).rows
    assert equal(parse(to_text(rows)), rows)
    log.write_text(tmp_path / "rows.tsv", "validation", 100)
    written = parse((tmp_path / "rows.tsv").read_bytes())
    assert np.array_equal(encode(written, 4096), encode(rows.head(100), 4096))


def test_a_linear_model_learns_from_the_first_rows(train: LabelledRows) -> None:
    """Logistic regression on the dense fields alone beats the constant within 65,536 rows."""
    dense = encode(train.rows, 4096)[:, 1:14].view(np.float32).astype(float)
    missing = np.isnan(dense)
    features = np.hstack([np.where(missing, 0, dense), missing, np.ones((len(dense), 1))])
    label = train.rows.label
    half = len(label) // 2
    weights = np.zeros(features.shape[1])
    for _ in range(6):  # Newton's method
        p = 1 / (1 + np.exp(-features[:half] @ weights))
        hessian = (features[:half] * (p * (1 - p))[:, None]).T @ features[:half]
        gradient = features[:half].T @ (label[:half] - p)
        weights += np.linalg.solve(hessian + np.eye(len(weights)), gradient)
    p = 1 / (1 + np.exp(-features[half:] @ weights))
    loss = -np.log(np.where(label[half:], p, 1 - p)).mean()
    assert loss < 0.555
