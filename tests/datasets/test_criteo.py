"""Criteo's rows as a data module: sources, arguments, description and loaders."""

import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from paceline.datasets.click_log import ClickLog
from paceline.datasets.clicks import ClickDataset
from paceline.datasets.criteo import Criteo
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.criteo_format import encode
from tests import ROOT
from tests.criteo import GOOD, encoded, leftovers, line_with, prepared, rows


def broken(tmp_path: Path, kind: str) -> Path:
    """A source that cannot be read, of the kind named."""
    target = tmp_path / "rows.tsv"
    compressed = gzip.compress(GOOD * 5000)
    match kind:
        case "empty":
            target.touch()
        case "one row":
            target.write_bytes(GOOD)
        case "no day files":
            target.mkdir()
        case "twice":
            target.mkdir()
            (target / "day_1").write_bytes(GOOD)
            (target / "day_1.gz").write_bytes(compressed)
        case "truncated":
            target = tmp_path / "rows.gz"
            target.write_bytes(compressed[:-20])
        case "damaged":
            target = tmp_path / "rows.gz"
            target.write_bytes(compressed[:-8] + bytes(8))
        case "not gzip":
            target = tmp_path / "rows.gz"
            target.write_bytes(GOOD)
    return target


WANTED = "name a file of rows in Criteo's format, or a folder of them, with --data"


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("missing", f"cannot read {{}}: No such file or directory; {WANTED}"),
        ("empty", "{} holds 0 rows, too few to train and to validate on; give more rows"),
        ("one row", "{} holds 1 rows, too few to train and to validate on; give more rows"),
        (
            "no day files",
            f"{{}} has no files day_*, *.tsv, *.csv or *.txt (or .gz of these); {WANTED}",
        ),
        ("twice", "{}/day_1 is there twice, plain and as .gz; remove one of them"),
        (
            "truncated",
            "{} is not a whole gzip file: Compressed file ended before the end-of-stream marker "
            "was reached; fetch it again",
        ),
        ("damaged", "{} is not a whole gzip file: CRC check failed 0x0 != 0x"),
        ("not gzip", "{} is not a whole gzip file: Not a gzipped file (b'0\\t'); fetch it again"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(tmp_path: Path, kind: str, problem: str) -> None:
    target = broken(tmp_path, kind)
    with pytest.raises(DataError) as raised:
        prepared(target)
    assert str(raised.value).startswith(problem.format(target))
    assert "\n" not in str(raised.value)
    assert leftovers(tmp_path / "cache") == []


def test_description_of_a_file_by_hand(tmp_path: Path) -> None:
    target = tmp_path / "rows.tsv"
    target.write_bytes(GOOD * 3 + line_with(0, b"1") + GOOD + line_with(0, b"1"))
    description = prepared(target, validation_fraction=1 / 3).description
    assert json.loads(json.dumps(description)) == {
        "name": "rows.tsv",
        "synthetic": False,
        "train_rows": 4,
        "validation_rows": 2,
        "click_rate": pytest.approx(2 / 6),
        "constant_log_loss": pytest.approx(-(np.log(0.25) + np.log(0.75)) / 2),
        "skipped_rows": 0,
        "first_skipped": "",
    }


def test_the_synthetic_log_is_the_default_and_says_so(tmp_path: Path) -> None:
    data = Criteo(train_rows=20_000, validation_rows=10_000, cache_dir=str(tmp_path))
    data.prepare_data()
    data.setup()
    assert (len(data.train_dataset), len(data.validation_dataset)) == (20_000, 10_000)
    description = data.description
    assert description["name"] == "synthetic click log"
    assert description["synthetic"] is True
    assert description["click_rate"] == pytest.approx(0.25, abs=0.015)
    assert float(description["bayes_log_loss"]) < float(description["constant_log_loss"]) - 0.1
    log = ClickLog(seed=0)
    expected = [
        encode(block.rows, 4096)
        for block in (*log.blocks("train", 20_000), *log.blocks("validation", 10_000))
    ]
    assert np.array_equal(encoded(data), np.concatenate(expected))
    longer = Criteo(train_rows=20_001, validation_rows=10_000, cache_dir=str(tmp_path))
    longer.setup()
    assert longer.fingerprint != data.fingerprint
    assert np.array_equal(encoded(longer)[:20_000], encoded(data)[:20_000])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"train_rows": 0}, "train_rows is 0; it must be at least 1"),
        ({"validation_rows": 0}, "validation_rows is 0; it must be at least 1"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0; it must be within (0, 1)"),
        ({"hash_size": 1}, "hash_size is 1; it must be from 2 to 2^31"),
        ({"on_bad_rows": "ignore"}, "on_bad_rows is 'ignore'; it must be raise or skip"),
        ({"synthetic_seed": -1}, "synthetic_seed is -1; it must be at least 0"),
    ],
)
def test_an_argument_out_of_range_is_named(arguments: dict[str, object], problem: str) -> None:
    with pytest.raises(DataError) as raised:
        Criteo(**arguments)  # type: ignore[arg-type]
    assert str(raised.value) == problem


def test_loaders_give_whole_batches(criteo_file: Path) -> None:
    data = prepared(criteo_file)
    batches = list(data.val_dataloader())
    assert [tuple(batch.dense.shape) for batch in batches] == [(200, 13)]
    assert batches[0].label.tolist() == rows().label[1800:].tolist()
    torch.manual_seed(0)
    shuffled = list(data.train_dataloader())
    assert sum(len(batch.label) for batch in shuffled) == 1800
    assert sum(float(batch.label.sum()) for batch in shuffled) == rows().label[:1800].sum()


def test_a_dataset_pickles_without_its_rows(criteo_file: Path) -> None:
    dataset = prepared(criteo_file).validation_dataset
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    copy: ClickDataset = pickle.loads(pickled)
    assert torch.equal(copy[3].categories, dataset[3].categories)
    assert len(copy) == len(dataset)


def test_ranks_need_neither_polars_nor_pandas(criteo_file: Path) -> None:
    script = (
        "import sys\nfrom paceline.datasets.criteo import Criteo\n"
        f"Criteo(path={str(criteo_file)!r}, cache_dir={str(criteo_file.parent / 'cache')!r}).setup()\n"
        "assert not {'polars', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=170)
