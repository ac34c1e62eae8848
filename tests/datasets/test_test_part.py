"""The part of a click log that is neither trained nor validated on: its last rows, if asked for."""

from pathlib import Path

import numpy as np

from tests.criteo import encoded, prepared, rows


def test_the_last_rows_are_the_test_part(criteo_file: Path) -> None:
    whole = prepared(criteo_file, validation_fraction=0.2)
    data = prepared(criteo_file, validation_fraction=0.1, test_fraction=0.1)
    assert data.test_dataset is not None
    counts = [data.description[f"{part}_rows"] for part in ("train", "validation", "test")]
    assert counts == [1600, 200, 200]
    assert np.array_equal(encoded(data), encoded(whole)[:1800])
    (batch,) = data.test_dataloader()
    assert batch.label.tolist() == rows().label[1800:].tolist()
    assert data.train_dataset._place[0] == whole.train_dataset._place[0]  # one entry serves both
    assert data.fingerprint != whole.fingerprint


def test_without_it_nothing_changes(criteo_file: Path) -> None:
    data = prepared(criteo_file)
    assert data.test_dataloader() == []
    assert "test_rows" not in data.description
    clicks = rows().label
    rate, validated = clicks[:1800].mean(), clicks[1800:].mean()
    expected = -(validated * np.log(rate) + (1 - validated) * np.log1p(-rate))
    assert float(data.description["constant_log_loss"]) == expected
