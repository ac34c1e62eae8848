"""Any click log with a header, by a mapping of its columns: Avazu's train.csv as the example."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import pytest

from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.spec.suitable import prepared as suitable
from paceline.datasets.click_table import ClickTable
from paceline.datasets.reading import click_tables
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.criteo_format import mix
from tests.criteo import leftovers

# The header of the file, and how many values each field is drawn from here; 0 are counts.
AVAZU = {
    "id": 10**18,
    "click": 2,
    "hour": 0,
    "C1": 7,
    "banner_pos": 7,
    "site_id": 2000,
    "site_domain": 3000,
    "site_category": 20,
    "app_id": 3000,
    "app_domain": 200,
    "app_category": 30,
    "device_id": 20000,
    "device_ip": 40000,
    "device_model": 4000,
    "device_type": 5,
    "device_conn_type": 4,
    **{f"C{i}": 100 for i in range(14, 22)},
}
CATEGORIES = [name for name in AVAZU if name not in ("id", "click", "hour")]


def avazu(rows: int, seed: int = 0) -> list[list[str]]:
    """Rows in the format of Avazu's click-through contest, drawn at random."""
    generator = np.random.default_rng(seed)
    made = []
    for row in range(rows):
        fields = []
        for name, values in AVAZU.items():
            value = int(generator.integers(0, values)) if values else 14102100 + row // 50
            hexadecimal = name.startswith(("site", "app", "device_i", "device_m"))
            fields.append(f"{value * 2654435761 % 2**32:08x}" if hexadecimal else str(value))
        made.append(fields)
    return made


def written(folder: Path, rows: list[list[str]], name: str = "train.csv") -> Path:
    file = folder / name
    file.write_text("\n".join(",".join(fields) for fields in [list(AVAZU), *rows]) + "\n")
    return file


def table(path: Path, **arguments: object) -> ClickTable:
    arguments = {"label": "click", "integers": ["hour"], "categories": CATEGORIES, **arguments}
    data = ClickTable(str(path), cache_dir=str(path.parent / "cache"), **arguments)  # type: ignore[arg-type]
    data.setup()
    return data


def test_avazu_s_log_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    rows = avazu(200)
    data = table(written(tmp_path, rows), hash_size=1 << 20)
    assert (len(data.train_dataset), len(data.validation_dataset)) == (180, 20)
    assert (data.hash_size, data.integers, data.categoricals) == (1 << 20, 1, 21)
    batch = data.validation_dataset.__getitems__(range(20))
    assert batch.label.tolist() == [float(fields[1]) for fields in rows[180:]]
    hours = [[math.log1p(float(fields[2]))] for fields in rows[180:]]
    np.testing.assert_allclose(batch.dense.numpy(), hours, rtol=1e-6)
    hashes = np.array([[zlib.crc32(v.encode()) for v in fields[3:]] for fields in rows[180:]])
    buckets = 1 + mix(hashes.astype(np.uint32)) % ((1 << 20) - 1)
    assert np.array_equal(batch.categories.numpy(), buckets)


BENCHMARK = f"""
workload:
  data:
    class: paceline.datasets.click_table:ClickTable
    path: PATH
    label: click
    integers: [hour]
    categories: [{", ".join(CATEGORIES)}]
    cache_dir: CACHE
  task: {{class: "paceline.lightning_modules.models.click_through:ClickThrough"}}
  target: {{loss: 0.6}}
  budget: {{examples: 1000}}
algorithms: {{sync_sgd: }}
scale: {{workers: [1]}}
"""


def test_a_benchmark_maps_the_columns_and_the_model_fits(tmp_path: Path) -> None:
    file = written(tmp_path, avazu(100))
    yaml = tmp_path / "avazu.yaml"
    yaml.write_text(BENCHMARK.replace("PATH", str(file)).replace("CACHE", str(tmp_path / "cache")))
    trials = load_benchmark(str(yaml), []).trials()
    data = suitable(trials)
    task = trials[0].workload.build_task(data)
    assert task(data.train_dataset.__getitems__(range(8))).shape == (8,)


def small(folder: Path, text: str | bytes, **arguments: object) -> ClickTable:
    file = folder / "log.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogateescape"))
    arguments = {"label": "y", "integers": ["n"], "categories": ["c"], **arguments}
    return table(file, validation_fraction=0.5, **arguments)


def numbers(data: ClickTable) -> list[tuple[float, float, int]]:
    """Label, number and bucket of each row."""
    return [
        (float(label), float(dense[0]), int(bucket[0]))
        for dataset in (data.train_dataset, data.validation_dataset)
        for label, dense, bucket in zip(*dataset.__getitems__(range(len(dataset))), strict=True)
    ]


def test_blank_fields_are_missing_and_numbers_may_have_decimals(tmp_path: Path) -> None:
    data = small(tmp_path, "y,c,n\n1,,\n0,a,-2.5\n0,a,1e3\n1,0,0\n")
    first, second, third, fourth = numbers(data)
    assert (first[0], math.isnan(first[1]), first[2]) == (1.0, True, 0)
    assert second[1] == pytest.approx(-math.log1p(2.5))
    assert third[1] == pytest.approx(math.log1p(1000))
    assert fourth[1] == 0
    assert 0 < second[2] == third[2] != fourth[2] > 0


def test_how_a_file_is_written_does_not_matter(tmp_path: Path) -> None:
    text = 'y,n,c\n1,2,a\n0,3,"b, c"\n0,4,d\n'
    plain = small(tmp_path, text)
    others = {
        "windows": small(tmp_path, text.replace("\n", "\r\n")),
        "mark": small(tmp_path, "\ufeff" + text),
        "quotes": small(tmp_path, '"y","n","c"\n"1","2","a"\n"0","3","b, c"\n0,4,"d"'),
        "order": small(tmp_path, 'c,id,y,n\na,1,1,2\n"b, c",2,0,3\nd,3,0,4\n'),
        "tabs": small(tmp_path, "y\tn\tc\n1\t2\ta\n0\t3\tb, c\n0\t4\td\n", separator="\t"),
    }
    for name, data in others.items():
        assert data.fingerprint == plain.fingerprint, name
    shards = tmp_path / "days"
    shards.mkdir()
    (shards / "part-1.csv").write_text("y,n,c\n1,2,a\n")
    (shards / "part-2.csv.gz").write_bytes(gzip.compress(b'y,c,n\n0,"b, c",3\n0,d,4\n'))
    pooled = table(shards, label="y", integers=["n"], categories=["c"], validation_fraction=0.5)
    assert pooled.fingerprint == plain.fingerprint
    assert small(tmp_path, text.replace("d", "e")).fingerprint != plain.fingerprint


def test_values_that_are_no_utf_8_are_values(tmp_path: Path) -> None:
    data = small(tmp_path, b"y,n,c\n1,2,\xff\n0,3,\xfe\n")
    (_, _, one), (_, _, other) = numbers(data)
    assert 0 < one != other > 0


def test_kaggle_s_unlabelled_test_file_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "avazu"
    folder.mkdir()
    written(folder, avazu(50))
    (folder / "test.csv").write_text("id,hour\n1,2\n")
    assert table(folder).description["name"] == "train.csv"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("y,n,c\n1,2,a\n2,2,a\n0,1,b\n", "line 3: column y: '2' is not 0 or 1"),
        ("y,n,c\n1,2,a\n,2,a\n0,1,b\n", "line 3: column y: '' is not 0 or 1"),
        ("y,n,c\n1,2,a\n1,2 000,a\n0,1,b\n", "line 3: column n: '2 000' is not a number"),
        ("y,n,c\n1,2,a\n1,nan,a\n0,1,b\n", "line 3: column n: 'nan' is not a number"),
        ("y,n,c\n1,2,a\n1,1e999,a\n0,1,b\n", "line 3: column n: '1e999' is not a number"),
        ("y,n,c\n1,2,a\n1,٣,a\n0,1,b\n", r"line 3: column n: '\xd9\xa3' is not a number"),
        ("y,n,c\n1,2,a\n1,2\n0,1,b\n", "line 3: it has 2 fields, not 3"),
        ("y,n,c\n1,2,a\n\n0,1,b\n", "line 3: it has 0 fields, not 3"),
        ("y,n,c\n1,2,a\n1,2,a,\n0,1,b\n", "line 3: it has 4 fields, not 3"),
        ('y,n,c\n1,2,a\n1,"2"x,a\n0,1,b\n', "line 3: ',' expected after '\"'"),
    ],
)
def test_a_malformed_row_is_named_exactly_or_skipped(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(DataError) as raised:
        small(tmp_path, text)
    told = f"{tmp_path / 'log.csv'}, {problem}"
    assert str(raised.value) == (f"{told}; correct it, or drop such rows with --on-bad-rows skip")
    assert leftovers(tmp_path / "cache") == []
    data = small(tmp_path, text, on_bad_rows="skip")
    assert len(numbers(data)) == 2
    assert data.description["skipped_rows"] == 1
    assert data.description["first_skipped"] == told


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "{}: its header cannot be read: it is empty; name a file of comma-separated "),
        (
            "label,n,c\n1,2,a\n",
            "{} has no column 'y' in its header, 'label, n, c'; name the columns with"
            " workload.data.label, integers and categories",
        ),
        (
            "y,n,n,c\n1,2,3,a\n",
            "{} has two columns 'n' in its header, 'y, n, n, c'; name the columns with"
            " workload.data.label, integers and categories",
        ),
        ("y,n,c\n", "{} holds 0 rows, too few to train and to validate on; give more rows"),
        (
            'y,n,c\n1,2,a\n0,3,"b\n1,2,a\n1,2,a\n',
            "{}, line 3: unexpected end of data, at line 5; a quote is opened there or earlier and"
            " not closed: correct it",
        ),
    ],
)
@pytest.mark.parametrize("on_bad_rows", ["raise", "skip"])
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, text: str, problem: str, on_bad_rows: str
) -> None:
    with pytest.raises(DataError) as raised:
        small(tmp_path, text, on_bad_rows=on_bad_rows)
    assert str(raised.value).startswith(problem.format(tmp_path / "log.csv"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {"integers": [], "categories": []},
            "integers and categories name no column; name one at least",
        ),
        (
            {"integers": ["y"]},
            "column 'y' is named twice in label, integers and categories; name it once",
        ),
        (
            {"separator": ""},
            "separator is ''; it must be one character that is no quote and no line end",
        ),
        ({"test_fraction": 0.5}, "test_fraction is 0.5; it must be within [0, 0.5)"),
        ({"hash_size": 1}, "hash_size is 1; it must be from 2 to 2^31"),
    ],
)
def test_an_argument_out_of_range_is_named(
    tmp_path: Path, arguments: dict[str, object], problem: str
) -> None:
    with pytest.raises(DataError) as raised:
        small(tmp_path, "y,n,c\n1,2,a\n0,3,b\n", **arguments)
    assert str(raised.value) == problem


def test_the_size_of_blocks_and_what_is_remembered_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = avazu(100)
    rows[40][1] = "2"
    file = written(tmp_path, rows)
    expected = table(file, on_bad_rows="skip")
    monkeypatch.setattr(click_tables, "BLOCK_ROWS", 7)
    monkeypatch.setattr(click_tables, "REMEMBERED", 3)
    (tmp_path / "again").mkdir()
    again = table(written(tmp_path / "again", rows), on_bad_rows="skip")
    assert again.fingerprint == expected.fingerprint
    assert "train.csv, line 42: column click" in str(again.description["first_skipped"])
