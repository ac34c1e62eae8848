"""A cache entry that something happened to: found when it is opened, built again, and told."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paceline.datasets.reading import cache, corpus, criteo_files
from paceline.datasets.reading.criteo_format import encode
from paceline.datasets.text import Text
from tests.criteo import encoded, leftovers, module, prepared, rows


def entry_of(path: Path) -> Path:
    """The entry that reading `path` makes."""
    prepared(path)
    (made,) = (path.parent / "cache").glob(f"*/{cache.ROWS_FILE}")
    return made.parent


def zeroed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    harmed = slice(len(content) // 2, len(content) // 2 + 4000)
    content[harmed] = bytes(len(content[harmed]))
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def grown(file: Path) -> None:
    file.write_bytes(file.read_bytes() + bytes(100))


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [zeroed, cut, grown, flipped, Path.unlink])
@pytest.mark.parametrize("name", [cache.ROWS_FILE, cache.ABOUT_FILE, cache.SEAL_FILE])
def test_a_harmed_entry_is_built_again_and_told(
    criteo_file: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    name: str,
) -> None:
    entry = entry_of(criteo_file)
    before = {file.name: file.read_bytes() for file in entry.iterdir()}
    harm(entry / name)
    assert cache.damage(entry) is not None
    assert np.array_equal(encoded(prepared(criteo_file)), encode(rows(), 4096))
    assert {file.name: file.read_bytes() for file in entry.iterdir()} == before
    (told,) = caplog.messages
    assert told.startswith(f"{entry}: ")
    assert told.endswith("; it is built again")
    assert "\n" not in told


def test_what_is_wrong_with_an_entry_is_said(criteo_file: Path) -> None:
    entry = entry_of(criteo_file)
    file = entry / cache.ROWS_FILE
    assert cache.damage(entry) is None
    size = file.stat().st_size
    zeroed(file)
    assert cache.damage(entry) == "rows.npy has another checksum from byte 0 on"
    cut(file)
    assert cache.damage(entry) == f"rows.npy has {size - 100} bytes and not {size}"
    file.unlink()
    assert cache.damage(entry) == "it cannot be read: No such file or directory"


@pytest.mark.parametrize("seal", ["[]", "{}", '{"rows.npy": 1}', '{"rows.npy": {"bytes": "x"}}'])
def test_a_seal_that_is_none_is_damage(criteo_file: Path, seal: str) -> None:
    entry = entry_of(criteo_file)
    (entry / cache.SEAL_FILE).write_text(seal)
    assert cache.damage(entry) == "it has no readable checksums"


def test_a_sample_finds_some_damage_and_the_whole_check_all(
    criteo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PART_BYTES", 1000)
    monkeypatch.setattr(cache, "SAMPLED_PARTS", 2)
    entry = entry_of(criteo_file)
    assert cache.damaged(entry.parent) == {}
    zeroed(entry / cache.ROWS_FILE)  # 4 or 5 of 321 parts
    found = [cache.damage(entry) for _ in range(2000)]
    assert 0 < sum(reason is not None for reason in found) < 500
    part = (entry / cache.ROWS_FILE).stat().st_size // 2 // 1000
    assert cache.damaged(entry.parent) == {
        entry: f"rows.npy has another checksum from byte {part * 1000} on"
    }


def test_an_entry_without_checksums_is_of_an_older_version_and_built_again(
    criteo_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = entry_of(criteo_file)
    (entry / cache.SEAL_FILE).unlink()
    prepared(criteo_file)
    assert caplog.messages == [f"{entry}: it has no readable checksums; it is built again"]
    caplog.clear()
    prepared(criteo_file)
    assert not caplog.messages


def test_a_note_of_the_files_that_is_damaged_is_written_again(criteo_file: Path) -> None:
    entry = entry_of(criteo_file)
    note = criteo_file.parent / "cache" / f"{module(criteo_file)._log.owner}.json"
    whole = json.loads(note.read_text())
    for content in ("", "[1]", "{}", '{"key": "a"}', note.read_text()[:-5]):
        note.write_text(content)
        assert np.array_equal(encoded(prepared(criteo_file)), encode(rows(), 4096))
        assert json.loads(note.read_text()) == whole
    assert entry.exists()


def test_everything_is_on_the_disk_before_an_entry_counts(
    criteo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    sync, rename = cache._sync, Path.rename
    monkeypatch.setattr(cache, "_sync", lambda path: (events.append(path.name), sync(path)))
    monkeypatch.setattr(
        Path, "rename", lambda path, to: (events.append("renamed"), rename(path, to))[1]
    )
    entry_of(criteo_file)
    owner = module(criteo_file)._log.owner
    assert events == [
        "rows.npy",
        "about.json",
        "seal.json",
        f"{owner}.partial",
        "renamed",
        "cache",
    ]


def test_another_version_of_the_encoding_is_another_entry(
    criteo_file: Path, text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(criteo_file)
    folder = criteo_file.parent / "cache"
    monkeypatch.setattr(criteo_files, "ENCODING_VERSION", 1000)
    second = prepared(criteo_file)
    assert first.train_dataset._place[0] != second.train_dataset._place[0]
    assert first.fingerprint != second.fingerprint
    assert len(list(folder.glob(f"*/{cache.ROWS_FILE}"))) == 2

    def tokens() -> Path:
        data = Text(str(text_folder), sequence_length=1, cache_dir=str(folder))
        data.setup()
        return data.train_dataset._place[0]

    words = tokens()
    monkeypatch.setattr(corpus, "ENCODING_VERSION", 1000)
    assert tokens() != words


def test_a_damaged_entry_that_cannot_be_built_again_is_one_line(
    criteo_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = entry_of(criteo_file)
    cut(entry / cache.ROWS_FILE)
    criteo_file.write_bytes(b"oops\n")
    with pytest.raises(cache.DataError, match=r"line 1: 'oops'"), caplog.at_level(logging.WARNING):
        prepared(criteo_file)
    assert [name for name in leftovers(criteo_file.parent / "cache") if "partial" in name] == []
