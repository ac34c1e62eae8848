"""Mutated rows and files: a right value, a counted skip or one line; never a traceback or a hang.

`PACELINE_MUTATIONS=1000` mutates so many files of each reader and ten times as many rows.
"""

import gzip
import io
import os
import pickle
import random
import re
import shutil
import struct
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paceline.datasets.click_table import ClickTable
from paceline.datasets.images import Images
from paceline.datasets.reading import cache
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.criteo_format import ClickRows, encode
from paceline.datasets.reading.photograph import decode, size_of
from paceline.datasets.text import Text
from tests import criteo
from tests.images import idx, pixels
from tests.mutations import mutated

FILES = int(os.environ.get("PACELINE_MUTATIONS", "20"))
ROWS = 10 * FILES
LONGEST = 20  # seconds of a file, on a machine with much other work


def mutations(name: str) -> Iterator[random.Random]:
    for number in range(FILES):
        yield random.Random(f"{name} {number}")


def outcome(read: Callable[[], object]) -> str:
    """The line that `read` ends with, or nothing."""
    begin = time.monotonic()
    told = ""
    try:
        read()
    except DataError as error:
        told = str(error)
        assert told
        assert told.isprintable(), told
    assert time.monotonic() - begin < LONGEST
    return told


# Rows, beside a reader written here from the format's description alone.

INTEGER = re.compile(rb"(-?[0-9]{1,18})?")
CATEGORY = re.compile(rb"([0-9a-fA-F]{8})?")


def row_of(line: bytes) -> tuple[int, list[bytes], list[bytes]] | None:
    label, *fields = line.split(b"\t")
    integers, categories = fields[:13], fields[13:]
    if (
        label not in (b"0", b"1")
        or len(fields) != 39
        or not all(INTEGER.fullmatch(field) for field in integers)
        or not all(CATEGORY.fullmatch(field) for field in categories)
    ):
        return None
    return int(label), integers, categories


def test_mutated_rows_of_criteo_are_right_or_counted(tmp_path: Path) -> None:
    chance = random.Random(0)
    lines = criteo.text().splitlines(keepends=True)
    text = b"".join(mutated(chance.choice(lines), chance, most=1) for _ in range(ROWS))
    file = tmp_path / "rows.tsv"
    file.write_bytes(criteo.GOOD * 2 + text)
    parsed = [row_of(line) for line in file.read_bytes().replace(b"\r\n", b"\n").split(b"\n")]
    if file.read_bytes().endswith(b"\n"):
        parsed.pop()
    good = [row for row in parsed if row is not None]
    expected = ClickRows(
        np.array([label for label, _, _ in good], np.uint8),
        np.array([[int(field or 0) for field in row] for _, row, _ in good], np.int64),
        np.array([[not field for field in row] for _, row, _ in good]),
        np.array([[int(field or b"0", 16) for field in row] for _, _, row in good], np.uint32),
        np.array([[not field for field in row] for _, _, row in good]),
    )
    data = criteo.prepared(file, on_bad_rows="skip")
    assert np.array_equal(criteo.encoded(data), encode(expected, 4096))
    assert data.description["skipped_rows"] == parsed.count(None) > ROWS / 20
    assert len(good) > ROWS / 20
    told = outcome(lambda: criteo.prepared(file))
    assert told.startswith(f"{file}, line {parsed.index(None) + 1}: ")


def table_row(line: bytes) -> tuple[float, float] | None:
    fields = line.decode(errors="surrogateescape").split(",")
    if len(fields) != 4 or fields[0] not in ("0", "1"):
        return None
    if not re.fullmatch(r"(-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?)?", fields[1]):
        return None
    number = float(fields[1] or "nan")
    return None if np.isinf(number) else (float(fields[0]), number)


def table(path: Path, on_bad_rows: str) -> ClickTable:
    data = ClickTable(
        str(path),
        label="y",
        integers=["n"],
        categories=["c"],
        on_bad_rows=on_bad_rows,  # type: ignore[arg-type]
        cache_dir=str(path.parent / "cache"),
    )
    data.setup()
    return data


def table_rows(chance: random.Random, count: int) -> list[bytes]:
    numbers = [chance.choice(["", "5", "-12", "3.5", "1e4", "12345678901"]) for _ in range(count)]
    return [b"%d,%s,v%d,x\n" % (i % 2, n.encode(), i % 9) for i, n in enumerate(numbers)]


def test_mutated_rows_of_a_table_are_right_or_counted(tmp_path: Path) -> None:
    chance = random.Random(0)
    lines = [mutated(line, chance, most=1) for line in table_rows(chance, ROWS)]
    # Quotes may span lines, and a carriage return alone ends one: those are for the files below.
    text = re.sub(rb'["\r]', b"", b"".join(lines)).rstrip(b"\n") + b"\n"
    file = tmp_path / "rows.csv"
    file.write_bytes(b"y,n,c,d\n0,1,a,b\n1,2,a,b\n" + text)
    parsed = [table_row(line) for line in file.read_bytes().split(b"\n")[1:-1]]
    good = [row for row in parsed if row is not None]
    data = table(file, "skip")
    datasets = (data.train_dataset, data.validation_dataset)
    batches = [dataset.__getitems__(range(len(dataset))) for dataset in datasets]
    labels = np.concatenate([batch.label.numpy() for batch in batches])
    assert labels.tolist() == [label for label, _ in good]
    numbers = np.array([number for _, number in good])
    expected = np.copysign(np.log1p(np.abs(numbers)), numbers)
    found = np.concatenate([batch.dense[:, 0].numpy() for batch in batches])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert data.description["skipped_rows"] == parsed.count(None) > ROWS / 20
    assert len(good) > ROWS / 20
    told = outcome(lambda: table(file, "raise"))
    assert told.startswith(f"{file}, line {parsed.index(None) + 2}: ")


# Files: each reader is given a mutated one.


@pytest.mark.parametrize("name", ["rows.tsv", "rows.tsv.gz"])
def test_mutated_files_of_criteo(tmp_path: Path, name: str) -> None:
    content = b"".join(criteo.text().splitlines(keepends=True)[:50])
    content = gzip.compress(content) if name.endswith(".gz") else content
    told = []
    for chance in mutations(name):
        (tmp_path / name).write_bytes(mutated(content, chance))
        for bad_rows in ("raise", "skip"):
            told.append(outcome(lambda b=bad_rows: criteo.prepared(tmp_path / name, on_bad_rows=b)))
    assert any(told)


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_mutated_files_of_a_table(tmp_path: Path, name: str) -> None:
    rows = [*table_rows(random.Random(0), 40), b'1,2,"quoted, twice ""here""",x\n']
    content = b"y,n,c,d\n" + b"".join(rows)
    content = gzip.compress(content) if name.endswith(".gz") else content
    told = []
    for chance in mutations(name):
        (tmp_path / name).write_bytes(mutated(content, chance))
        told += [outcome(lambda b=b: table(tmp_path / name, b)) for b in ("raise", "skip")]
    assert any(told)


@pytest.mark.parametrize("level", ["word", "character"])
@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
def test_mutated_texts(tmp_path: Path, name: str, level: str) -> None:
    plain = "the cat sat on the mat, naïvely\n漢字 and others\n".encode() * 20
    told = []
    for chance in mutations(f"{name} {level}"):
        content = plain if name == "text.txt" else gzip.compress(plain)
        content = mutated(content, chance)
        (tmp_path / name).write_bytes(content)
        data = Text(str(tmp_path / name), level, 2, cache_dir=str(tmp_path / "cache"))  # type: ignore[arg-type]
        told.append(outcome(data.setup))
        if told[-1] or name != "text.txt":
            continue
        text = content.decode().removeprefix("\ufeff")
        if level == "word":
            lines = text.removesuffix("\n").split("\n")
            expected = [token for line in lines for token in (*line.split(), "<eos>")]
        else:
            expected = list(text.replace("\r\n", "\n"))
        tokens = np.load(data._ready.tokens_file)[:, 0]
        train = len(tokens) - data.description["validation_tokens"]  # type: ignore[operator]
        assert [data.vocabulary[token] for token in tokens[:train]] == expected[:train]
    assert any(told)


def test_mutated_idx_files(tmp_path: Path) -> None:
    contents = {
        f"{part}-{what}": content
        for part, rows in (("train", 30), ("t10k", 10))
        for what, content in (
            ("images-idx3-ubyte", idx(pixels(rows, rows, 6, 6))),
            ("labels-idx1-ubyte", idx(pixels(rows, rows) % 3)),
        )
    }
    told = []
    for chance in mutations("idx"):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        (tmp_path / "set").mkdir()
        harmed, packed = chance.choice(sorted(contents)), chance.random() < 0.5
        for name, content in contents.items():
            content = gzip.compress(content) if packed else content
            content = mutated(content, chance) if name == harmed else content
            (tmp_path / "set" / (f"{name}.gz" if packed else name)).write_bytes(content)
        told.append(outcome(lambda: read_images(tmp_path / "set")))
    assert any(told)


def read_images(path: Path) -> None:
    data = Images(str(path), augment=False)
    data.prepare_data()
    for dataset in (data.train_dataset, data.validation_dataset):
        image, label = dataset.__getitems__(range(len(dataset)))  # type: ignore[arg-type]
        assert image.shape == (len(label), data.channels, data.image_size, data.image_size)
        assert image.isfinite().all()
        assert 0 <= label.min() <= label.max() < data.classes


def cifar_batches() -> dict[str, bytes]:
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {
        name: pickle.dumps(
            {b"data": pixels(seed, 4, 3072), b"labels": [0, 3, 9, 1], b"batch_label": b"a batch"},
            protocol=2,
        )
        for seed, name in enumerate(names)
    }


def test_mutated_batches_of_cifar(tmp_path: Path) -> None:
    contents = cifar_batches()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    told = []
    for chance in mutations("cifar"):
        harmed = chance.choice(sorted(contents))
        content = contents[harmed]
        # Most of a batch is pixels: the rest is what can go wrong.
        edge = chance.choice((200, len(content)))
        head, middle, tail = (
            content[:edge],
            content[edge:-edge],
            content[max(edge, len(content) - edge) :],
        )
        changed = (
            mutated(head, chance) + middle + tail
            if chance.random() < 0.5
            else (head + middle + mutated(tail, chance))
        )
        (tmp_path / harmed).write_bytes(changed)
        told.append(outcome(lambda: read_images(tmp_path)))
        (tmp_path / harmed).write_bytes(content)
    assert any(told)


def test_mutated_archives_of_cifar(tmp_path: Path) -> None:
    archives = []
    for mode in ("w", "w:gz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as archive:
            for name, content in cifar_batches().items():
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        archives.append(buffer.getvalue())
    told = []
    for chance in mutations("archive"):
        plain = chance.random() < 0.5
        content = archives[0 if plain else 1]
        if plain and chance.random() < 0.7:  # within a header
            place = 12800 * chance.randrange(6)
            header = mutated(content[place : place + 512], chance)
            content = content[:place] + header.ljust(512, b"\0")[:512] + content[place + 512 :]
        else:
            content = mutated(content, chance)
        (tmp_path / "a.tar").write_bytes(content)
        told.append(outcome(lambda: read_images(tmp_path / "a.tar")))
    assert any(told)


def photographs() -> dict[str, bytes]:
    """A small image in every format that is read."""
    colours = Image.fromarray(pixels(0, 24, 20, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a photograph"
    kinds = {
        "a.jpg": (colours, {"exif": exif}),
        "progressive.jpg": (colours, {"progressive": True}),
        "cmyk.jpg": (colours.convert("CMYK"), {}),
        "a.png": (colours, {}),
        "palette.png": (colours.convert("P"), {"transparency": 3}),
        "alpha.png": (colours.convert("RGBA"), {}),
        "deep.png": (Image.fromarray(pixels(0, 24, 20).astype(np.uint16) * 257), {}),
        "a.gif": (colours, {}),
        "a.bmp": (colours, {}),
        "a.webp": (colours, {}),
        "a.tif": (colours, {"compression": "tiff_lzw"}),
        "float.tif": (Image.fromarray(pixels(0, 24, 20).astype(np.float32) / 255), {}),
        "a.ppm": (colours, {}),
    }
    made = {}
    for name, (image, options) in kinds.items():
        buffer = io.BytesIO()
        suffix = name.rsplit(".")[1]
        image.save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix), **options)
        made[name] = buffer.getvalue()
    return made


@pytest.mark.filterwarnings("ignore")  # Pillow warns of metadata that it leaves out
@pytest.mark.parametrize("name", photographs())
def test_mutated_photographs(tmp_path: Path, name: str) -> None:
    content = photographs()[name]
    file = tmp_path / name

    def look() -> None:
        width, height = size_of(file)
        assert width > 0 < height
        image = decode(file, 16)
        assert (image.shape, image.dtype) == ((3, 16, 16), np.uint8)

    file.write_bytes(content)
    assert outcome(look) == ""
    told = []
    for chance in mutations(name):
        file.write_bytes(mutated(content, chance))
        told.append(outcome(look))
    assert any(told)


def test_mutated_cache_entries_are_built_again(criteo_file: Path) -> None:
    criteo_file.write_bytes(b"".join(criteo.text().splitlines(keepends=True)[:50]))
    expected = criteo.encoded(criteo.prepared(criteo_file))
    folder = criteo_file.parent / "cache"
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in (".npy", ".json")]
    assert {file.name for file in files} > {cache.ROWS_FILE, cache.ABOUT_FILE, cache.SEAL_FILE}
    for chance in mutations("cache"):
        file = chance.choice(files)
        file.write_bytes(mutated(file.read_bytes(), chance))
        assert outcome(lambda: criteo.prepared(criteo_file)) == ""
        assert np.array_equal(criteo.encoded(criteo.prepared(criteo_file)), expected)


def test_numbers_that_promise_much_cost_little(tmp_path: Path) -> None:
    """A count in a header may be any; what is allocated for it may not."""
    (tmp_path / "set").mkdir()
    for part in ("train", "t10k"):
        huge = struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)
        (tmp_path / "set" / f"{part}-images-idx3-ubyte").write_bytes(huge)
        (tmp_path / "set" / f"{part}-labels-idx1-ubyte").write_bytes(idx(pixels(0, 3)))
    assert "promises 4294967295 x 4294967295 x 4294967295 values and holds 0" in outcome(
        lambda: read_images(tmp_path / "set")
    )
    for name, content in cifar_batches().items():
        # The compiled unpickler makes room for this place in its memo: 64 GB.
        (tmp_path / name).write_bytes(b"\x80\x02}r\xff\xff\xff\xff" + content[3:])
    assert outcome(lambda: read_images(tmp_path)) == ""
