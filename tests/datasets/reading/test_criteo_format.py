"""Criteo's format: what a row means, and every way one can be wrong."""

import gzip
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from paceline.datasets.criteo import Criteo
from paceline.datasets.reading import criteo_files, criteo_format
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.criteo_format import (
    COLUMNS,
    encode,
    find_faults,
    parse,
    to_text,
)
from tests.criteo import GOOD, encoded, leftovers, line_with, prepared, rows, text

ADVICE = "correct it, or drop such rows with --on-bad-rows skip"


def test_reading_a_file_gives_the_rows_it_was_written_from(criteo_file: Path) -> None:
    data = prepared(criteo_file)
    assert np.array_equal(encoded(data), encode(rows(), 4096))
    assert (len(data.train_dataset), len(data.validation_dataset)) == (1800, 200)


def test_values_are_encoded_as_documented(tmp_path: Path) -> None:
    fields = [b"1", b"0", b"-3", b"", b"999999999999999999", b"-12345678", *[b"5"] * 8]
    fields += [b"00000000", b"", b"FFFFFFFF", b"ffffffff", *[b"0a1b2c3d"] * 22]
    target = tmp_path / "rows.tsv"
    target.write_bytes(b"\t".join(fields) + b"\n" + GOOD)
    data = prepared(target, hash_size=1 << 20, validation_fraction=0.5)
    label, dense, categories = data.train_dataset[0]
    assert label.tolist() == [1.0]
    expected = torch.tensor([0.0, -np.log1p(3), torch.nan, np.log1p(1e18), -np.log1p(12345678)])
    torch.testing.assert_close(dense[0, :5], expected.float(), equal_nan=True, rtol=0, atol=1e-6)
    assert (dense.dtype, categories.dtype) == (torch.float32, torch.int32)
    zero, missing, upper, lower, *same = categories[0].tolist()
    assert missing == 0 < min(zero, upper, lower, *same)
    assert upper != lower  # one value, two fields
    assert len(set(same)) == 22
    assert max(categories[0]) < 1 << 20


def test_upper_and_lower_case_digits_are_one_value() -> None:
    upper, lower = (
        encode(parse(line_with(14, value)), 4096) for value in (b"ABCDEF01", b"abcdef01")
    )
    assert np.array_equal(upper, lower)


@pytest.mark.parametrize("block_bytes", [1, 300, 4096, 1 << 26])
def test_the_size_of_blocks_does_not_matter(
    criteo_file: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criteo_files, "BLOCK_BYTES", block_bytes)
    assert np.array_equal(encoded(prepared(criteo_file)), encode(rows(), 4096))


def test_gzip_windows_line_ends_and_days_hold_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = tmp_path / "plain" / "rows.tsv"
    plain.write_bytes(text())
    expected = prepared(plain)

    gz = tmp_path / "gz" / "rows.tsv.gz"
    gz.parent.mkdir()
    gz.write_bytes(gzip.compress(text()[:100_000]) + gzip.compress(text()[100_000:]))
    windows = tmp_path / "windows" / "rows.txt"
    windows.parent.mkdir()
    windows.write_bytes(text().replace(b"\n", b"\r\n"))
    unended = tmp_path / "unended" / "rows.txt"
    unended.parent.mkdir()
    unended.write_bytes(text()[:-1])
    days = tmp_path / "days" / "log"
    days.mkdir(parents=True)
    lines = text().splitlines(keepends=True)
    (days / "day_9").write_bytes(b"".join(lines[:700])[:-1])
    (days / "day_10.gz").write_bytes(gzip.compress(b"".join(lines[700:])))
    (days / "readme.md").write_text("not rows")

    for source in (gz, windows, unended, days):
        data = prepared(source)
        assert np.array_equal(encoded(data), encoded(expected)), source
        assert data.fingerprint == expected.fingerprint, source
    assert prepared(days).description["name"] == "day_9, day_10.gz"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"1\t2\t3\n", r"'1\t2\t3' has 3 tab-separated fields, not 40"),
        (
            GOOD[:-1] + b"\t\n",
            f"{GOOD[:40].decode()!a}... has 41 tab-separated fields, not 40",
        ),
        (b"\n", "'' has 1 tab-separated fields, not 40"),
        (line_with(0, b""), "field label: '' is not 0 or 1"),
        (line_with(0, b"2"), "field label: '2' is not 0 or 1"),
        (line_with(0, b"01"), "field label: '01' is not 0 or 1"),
        (line_with(1, b"abc"), "field I1: 'abc' is not an integer of up to 18 digits"),
        (line_with(2, b"1.5"), "field I2: '1.5' is not an integer of up to 18 digits"),
        (line_with(3, b"-"), "field I3: '-' is not an integer of up to 18 digits"),
        (line_with(4, b"+5"), "field I4: '+5' is not an integer of up to 18 digits"),
        (line_with(5, b" 5"), "field I5: ' 5' is not an integer of up to 18 digits"),
        (line_with(6, b"5-5"), "field I6: '5-5' is not an integer of up to 18 digits"),
        (line_with(7, b"1_000"), "field I7: '1_000' is not an integer of up to 18 digits"),
        (
            line_with(13, b"1" * 19),
            f"field I13: '{'1' * 19}' is not an integer of up to 18 digits",
        ),
        (line_with(14, b"68fd1e6"), "field C1: '68fd1e6' is not eight hexadecimal digits"),
        (line_with(15, b"68fd1e644"), "field C2: '68fd1e644' is not eight hexadecimal digits"),
        (line_with(16, b"68fd1e6g"), "field C3: '68fd1e6g' is not eight hexadecimal digits"),
        (line_with(17, b"-8fd1e64"), "field C4: '-8fd1e64' is not eight hexadecimal digits"),
        (line_with(18, b"\x008fd1e64"), r"field C5: '\x008fd1e64' is not eight hexadecimal digits"),
        (
            line_with(19, b"68fd\xff\xfe64"),
            r"field C6: '68fd\xff\xfe64' is not eight hexadecimal digits",
        ),
        (
            line_with(39, b"68fd1e64\r\r"),
            r"field C26: '68fd1e64\r' is not eight hexadecimal digits",
        ),
        (
            line_with(20, b"x" * 50),
            f"field C7: '{'x' * 40}'... is not eight hexadecimal digits",
        ),
    ],
)
def test_a_malformed_row_is_named_exactly_or_skipped(
    tmp_path: Path, line: bytes, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        criteo_files, "BLOCK_BYTES", len(GOOD) * 3
    )  # the bad row is in the third block
    target = tmp_path / "rows.tsv"
    target.write_bytes(GOOD * 9 + line + GOOD)
    with pytest.raises(DataError) as raised:
        prepared(target)
    assert str(raised.value) == f"{target}, line 10: {problem}; {ADVICE}"
    assert leftovers(tmp_path / "cache") == []

    data = prepared(target, on_bad_rows="skip")
    assert np.array_equal(encoded(data), encode(parse(GOOD * 10), 4096))
    assert data.description["skipped_rows"] == 1
    assert data.description["first_skipped"] == f"{target}, line 10: {problem}"


def test_skipped_rows_are_counted_and_the_first_few_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    days = tmp_path / "log"
    days.mkdir()
    (days / "day_0").write_bytes((GOOD * 50 + b"oops\n") * 3)
    (days / "day_1").write_bytes(b"2\n" + GOOD * 50)
    data = prepared(days, on_bad_rows="skip")
    assert (data.description["skipped_rows"], len(encoded(data))) == (4, 200)
    shown = "; ".join(
        f"{days / 'day_0'}, line {line}: 'oops' has 1 tab-separated fields, not 40"
        for line in (51, 102, 153)
    )
    assert data.description["first_skipped"] == shown
    assert f"day_0, day_1: skipped 4 malformed rows: {shown}" in caplog.text
    with pytest.raises(DataError, match="day_0, line 51: "):
        prepared(days)  # what was skipped once is not accepted for that


def test_the_fast_check_and_the_exact_one_agree_on_damaged_rows() -> None:
    """Change random bytes: a row is malformed for `parse` exactly when it is for `find_faults`."""
    chance = random.Random(0)
    lines = text().splitlines(keepends=True)
    faulty = 0
    for _ in range(4000):
        line = bytearray(chance.choice(lines))
        line[chance.randrange(len(line) - 1)] = chance.choice(b"\t\n\r-+ 0123456789afgAFG\x00\xff")
        damaged = bytes(line)
        expected = any(find_faults(damaged.split(b"\n")[:-1]))
        try:
            parse(damaged)
            found = False
        except criteo_format.MalformedRowError:
            found = True
        assert found == expected, damaged
        faulty += found
    assert 1000 < faulty < 3900


def test_integers_are_read_exactly(tmp_path: Path) -> None:
    chance = random.Random(0)
    values = [
        chance.choice((-1, 1)) * chance.randrange(10 ** chance.randint(1, 18)) for _ in range(1300)
    ]
    lines = [
        b"\t".join([b"0", *(b"%d" % v for v in values[i : i + 13]), *[b""] * 26])
        for i in range(0, 1300, 13)
    ]
    assert parse(b"\n".join(lines) + b"\n").integers.ravel().tolist() == values


def test_the_challenge_s_own_rows(tmp_path: Path) -> None:
    folder = os.environ.get("PACELINE_DATA")
    if folder is None:
        pytest.skip("PACELINE_DATA does not name the folder of real data")
    source = Path(folder) / "criteo" / "train_head_7200.tsv"
    data = Criteo(path=str(source), cache_dir=str(tmp_path))
    data.setup()
    lines = [line.split("\t") for line in source.read_text().split("\n")[:-1]]
    array = encoded(data)
    assert array.shape == (7200, COLUMNS)
    assert (array[:, 0] == [int(line[0]) for line in lines]).all()
    expected = [[np.nan if v == "" else float(v) for v in line[1:14]] for line in lines]
    dense = array[:, 1:14].view(np.float32)
    exact = np.array(expected)
    np.testing.assert_allclose(dense, np.sign(exact) * np.log1p(np.abs(exact)), rtol=1e-6)
    assert ((array[:, 14:] == 0) == [[v == "" for v in line[14:]] for line in lines]).all()
    assert data.description["click_rate"] == pytest.approx(1549 / 7200)
    assert to_text(parse(source.read_bytes())) == source.read_bytes()
