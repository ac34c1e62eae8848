"""Reading Criteo's format: real files, real processes, and every way a row can be wrong."""

import gzip
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from paceline.datasets import criteo
from paceline.datasets.click_log import ClickLog
from paceline.datasets.criteo import ClickDataset, Criteo
from paceline.datasets.reading import cache, criteo_format
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.criteo_format import (
    COLUMNS,
    ClickRows,
    encode,
    find_faults,
    parse,
    to_text,
)
from tests import ROOT

ADVICE = "correct it, or drop such rows with --on-bad-rows skip"


@pytest.fixture(scope="module")
def rows() -> ClickRows:
    return ClickLog(seed=0).block("train", 0).rows.head(2000)


@pytest.fixture(scope="module")
def text(rows: ClickRows) -> bytes:
    return to_text(rows)


@pytest.fixture
def file(tmp_path: Path, text: bytes) -> Path:
    target = tmp_path / "rows.tsv"
    target.write_bytes(text)
    return target


def module(path: Path, **arguments: object) -> Criteo:
    return Criteo(path=str(path), cache_dir=str(path.parent / "cache"), **arguments)  # type: ignore[arg-type]


def prepared(path: Path, **arguments: object) -> Criteo:
    data = module(path, **arguments)
    data.setup()
    return data


def encoded(data: Criteo) -> np.ndarray:
    """All rows of a prepared module, int32 [n, 40]."""
    batches = [
        dataset.__getitems__(range(len(dataset)))
        for dataset in (data.train_dataset, data.validation_dataset)
    ]
    return np.hstack(
        [
            np.concatenate([batch.label.numpy() for batch in batches])[:, None].astype(np.int32),
            np.concatenate([batch.dense.numpy() for batch in batches]).view(np.int32),
            np.concatenate([batch.categories.numpy() for batch in batches]),
        ]
    )


def leftovers(folder: Path) -> list[str]:
    """What lies in a cache folder apart from locks."""
    return sorted(p.name for p in folder.glob("*") if p.suffix != ".lock")


def line_with(field: int, value: bytes) -> bytes:
    """A good row but for one field."""
    fields = [b"1", *[b"7"] * 13, *[b"0a1b2c3d"] * 26]
    fields[field] = value
    return b"\t".join(fields) + b"\n"


GOOD = line_with(0, b"0")


def test_reading_a_file_gives_the_rows_it_was_written_from(file: Path, rows: ClickRows) -> None:
    data = prepared(file)
    assert np.array_equal(encoded(data), encode(rows, 4096))
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
    file: Path, rows: ClickRows, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criteo, "BLOCK_BYTES", block_bytes)
    assert np.array_equal(encoded(prepared(file)), encode(rows, 4096))


def test_gzip_windows_line_ends_and_days_hold_the_same_rows(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "plain").mkdir()
    plain = tmp_path / "plain" / "rows.tsv"
    plain.write_bytes(text)
    expected = prepared(plain)

    gz = tmp_path / "gz" / "rows.tsv.gz"
    gz.parent.mkdir()
    gz.write_bytes(gzip.compress(text[:100_000]) + gzip.compress(text[100_000:]))
    windows = tmp_path / "windows" / "rows.txt"
    windows.parent.mkdir()
    windows.write_bytes(text.replace(b"\n", b"\r\n"))
    unended = tmp_path / "unended" / "rows.txt"
    unended.parent.mkdir()
    unended.write_bytes(text[:-1])
    days = tmp_path / "days" / "log"
    days.mkdir(parents=True)
    lines = text.splitlines(keepends=True)
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
    monkeypatch.setattr(criteo, "BLOCK_BYTES", len(GOOD) * 3)  # the bad row is in the third block
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


def test_the_fast_check_and_the_exact_one_agree_on_damaged_rows(text: bytes) -> None:
    """Change random bytes: a row is malformed for `parse` exactly when it is for `find_faults`."""
    chance = random.Random(0)
    lines = text.splitlines(keepends=True)
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
        ("no day files", f"{{}} has no files day_*, *.tsv or *.txt (or .gz of these); {WANTED}"),
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


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function returns in `count` fresh processes at once."""
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        return [f.result(60) for f in [pool.submit(function, *arguments) for _ in range(count)]]


def message_of(function: Callable[[], Any]) -> str:
    """The message of the `DataError` that must come."""
    try:
        function()
    except DataError as error:
        return str(error)
    return "no error"


def _read_without_rights(path: Path) -> str:
    if os.getuid() == 0:
        os.setuid(65534)
    return message_of(lambda: next(criteo._texts(path, hashlib.blake2b())))


def test_a_file_that_may_not_be_read_is_named(file: Path) -> None:
    file.chmod(0)
    assert in_processes(1, _read_without_rights, file) == [
        f"cannot read {file}: Permission denied; check that it is a file you may read"
    ]


def _prepare_with_little_room(path: Path, limit: int) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return message_of(module(path).prepare_data)


@pytest.mark.parametrize("limit", [100, 150_000])
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(file: Path, limit: int) -> None:
    """The kernel refuses to let a file grow past a limit, as it would on a full disk."""
    assert in_processes(1, _prepare_with_little_room, file, limit) == [
        f"cannot write the cache {file.parent / 'cache'}: File too large; "
        "free space there or set another cache_dir"
    ]
    assert leftovers(file.parent / "cache") == []


def _prepare_when_all_are_ready(path: Path, count: int) -> tuple[int, str, str]:
    (path.parent / f"ready-{os.getpid()}").touch()
    while len(list(path.parent.glob("ready-*"))) < count:
        time.sleep(0.001)
    with patch.object(cache, "write_rows", wraps=cache.write_rows) as write_rows:
        data = prepared(path)
    rows = hashlib.sha256(encoded(data).tobytes()).hexdigest()
    return write_rows.call_count, data.fingerprint, rows


def test_processes_that_start_together_build_the_cache_once(file: Path, rows: ClickRows) -> None:
    builds, fingerprints, found = zip(
        *in_processes(5, _prepare_when_all_are_ready, file, 5), strict=True
    )
    assert sum(builds) == 1
    assert set(fingerprints) == {prepared(file).fingerprint}
    assert set(found) == {hashlib.sha256(encode(rows, 4096).tobytes()).hexdigest()}


def test_what_a_killed_build_left_is_replaced(file: Path, rows: ClickRows) -> None:
    first = module(file)
    partial = file.parent / "cache" / f"{first._log.owner}.partial"
    partial.mkdir(parents=True)
    (partial / "rows.npy").write_bytes(b"half")
    assert np.array_equal(encoded(prepared(file)), encode(rows, 4096))
    assert not partial.exists()


def test_one_byte_or_another_hash_size_makes_another_entry(file: Path, text: bytes) -> None:
    one = prepared(file)
    smaller = prepared(file, hash_size=64)
    assert int(smaller.train_dataset.__getitems__(range(1800)).categories.max()) == 63
    status = file.stat()
    file.write_bytes(text[:-2] + (b"0" if text[-2:-1] != b"0" else b"1") + b"\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # a change that hides its time
    changed = prepared(file)
    assert len({one.fingerprint, smaller.fingerprint, changed.fingerprint}) == 3
    assert (encoded(one) != encoded(changed)).sum() == 1


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


def test_loaders_give_whole_batches(file: Path, rows: ClickRows) -> None:
    data = prepared(file)
    batches = list(data.val_dataloader())
    assert [tuple(batch.dense.shape) for batch in batches] == [(200, 13)]
    assert batches[0].label.tolist() == rows.label[1800:].tolist()
    torch.manual_seed(0)
    shuffled = list(data.train_dataloader())
    assert sum(len(batch.label) for batch in shuffled) == 1800
    assert sum(float(batch.label.sum()) for batch in shuffled) == rows.label[:1800].sum()


def test_a_dataset_pickles_without_its_rows(file: Path) -> None:
    dataset = prepared(file).validation_dataset
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    copy: ClickDataset = pickle.loads(pickled)
    assert torch.equal(copy[3].categories, dataset[3].categories)
    assert len(copy) == len(dataset)


def test_ranks_need_neither_polars_nor_pandas(file: Path) -> None:
    script = (
        "import sys\nfrom paceline.datasets.criteo import Criteo\n"
        f"Criteo(path={str(file)!r}, cache_dir={str(file.parent / 'cache')!r}).setup()\n"
        "assert not {'polars', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


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
