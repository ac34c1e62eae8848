"""Folders of click logs as people have them: what is read, what is left out, what is told."""

import gzip
from pathlib import Path

import pytest

from paceline.datasets.reading.cache import DataError
from tests.criteo import GOOD, encoded, line_with, prepared

UNLABELLED = GOOD[2:]
CLICKED = line_with(0, b"1")


def folder_of(tmp_path: Path, files: dict[str, bytes]) -> Path:
    folder = tmp_path / "dac"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_challenge_s_folder_is_read_as_it_is_unpacked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        "train.txt": GOOD * 30,
        "test.txt": UNLABELLED * 9,
        "readme.txt": b"Display Advertising Challenge\n",
        ".DS_Store": b"\0",
        "._train.txt": b"\0\5",
    }
    folder = folder_of(tmp_path, files)
    data = prepared(folder)
    assert data.description["name"] == "train.txt"
    assert (len(data.train_dataset), len(data.validation_dataset)) == (27, 3)
    assert caplog.messages == [f"{folder}: not read: readme.txt, test.txt"]
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "train.txt"
    alone.write_bytes(GOOD * 30)
    assert prepared(alone).fingerprint == data.fingerprint


def test_days_are_read_without_what_lies_beside_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = dict.fromkeys(
        ("day_0.npz", "day_0.gz.md5", "day_2.gz.part", "_SUCCESS", "day_x"), b"\x00"
    )
    days = {"day_0": GOOD * 9, "day_1.gz": gzip.compress(GOOD), "README": b"x", "LICENSE.txt": b"y"}
    folder = folder_of(tmp_path, days | beside)
    (folder / "old.txt").mkdir()
    data = prepared(folder)
    assert data.description["name"] == "day_0, day_1.gz"
    assert caplog.messages == [
        f"{folder}: not read: LICENSE.txt, README, _SUCCESS, day_0.gz.md5, day_0.npz, day_2.gz.part,"
        " day_x"
    ]
    caplog.clear()
    prepared(folder)
    assert not caplog.messages  # told when it is read, and once


def test_csv_files_in_a_folder_are_read_as_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"dev.csv": GOOD * 6, "test.csv": GOOD * 4})
    data = prepared(folder)
    assert data.description["name"] == "dev.csv, test.csv"
    assert len(encoded(data)) == 10


def test_files_named_after_parts_are_used_as_their_names_say(tmp_path: Path) -> None:
    files = {"train.csv": GOOD * 6, "valid.csv.gz": gzip.compress(CLICKED * 4), "test.csv": b"?"}
    folder = folder_of(tmp_path, files)
    data = prepared(folder)
    assert data.description["name"] == "train.csv, valid.csv.gz"
    assert data.train_dataset.__getitems__(range(6)).label.tolist() == [0.0] * 6
    assert data.validation_dataset.__getitems__(range(4)).label.tolist() == [1.0] * 4
    # The same rows, divided in another place, are other data.
    (folder / "train.csv").write_bytes(GOOD * 6 + CLICKED)
    (folder / "valid.csv.gz").write_bytes(gzip.compress(CLICKED * 3))
    moved = prepared(folder)
    assert len(moved.train_dataset) == 7
    assert moved.fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("files", "bad_rows", "told"),
    [
        (
            {"day_0": GOOD * 9, "notes.txt": b"see the wiki\n"},
            "raise",
            "{}/notes.txt, line 1: 'see the wiki' has 1 tab-separated fields, not 40; move the file"
            " away if it holds no rows, correct it, or drop such rows with --on-bad-rows skip",
        ),
        (
            {"day_0": GOOD * 9, "notes.txt": b"see the wiki\nor ask\n"},
            "skip",
            "{}/notes.txt, line 1: 'see the wiki' has 1 tab-separated fields, not 40, nor is any"
            " other of its lines a row; name a file of rows in Criteo's format, or a folder of them,"
            " with --data",
        ),
        (
            {"test.txt": UNLABELLED},
            "raise",
            "{}/test.txt, line 1: {} has 39 tab-separated fields, not 40 (a row without its label?);"
            " move the file away if it holds no rows, correct it, or drop such rows with"
            " --on-bad-rows skip",
        ),
        (
            {"train.csv": b"id,click,hour\n1,0,14102100\n"},
            "raise",
            "{}/train.csv, line 1: 'id,click,hour' has 1 tab-separated fields, not 40 (columns with"
            " commas and a header are read by click_table:ClickTable); move the file away if it"
            " holds no rows, correct it, or drop such rows with --on-bad-rows skip",
        ),
        (
            {"train.txt": GOOD * 5, "valid.txt": b""},
            "raise",
            "{} holds 5 rows, too few to train and to validate on; give more rows",
        ),
        (
            {"readme.txt": b"x", "day_0.npz": b"y"},
            "raise",
            "{} has no files day_*, *.tsv, *.csv or *.txt (or .gz of these); name a file of rows in"
            " Criteo's format, or a folder of them, with --data",
        ),
    ],
)
def test_the_odd_file_is_named(
    tmp_path: Path, files: dict[str, bytes], bad_rows: str, told: str
) -> None:
    folder = folder_of(tmp_path, files)
    with pytest.raises(DataError) as raised:
        prepared(folder, on_bad_rows=bad_rows)
    quoted = f"{UNLABELLED[:40].decode()!a}..."
    assert str(raised.value) == told.format(folder, quoted)
