"""The cache of rows: built once, by real processes, and whole or not at all."""

import hashlib
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from paceline.datasets.reading import cache, criteo_files
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.criteo_format import encode
from tests.criteo import encoded, leftovers, module, prepared, rows, text
from tests.processes import in_processes


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
    return message_of(lambda: next(criteo_files._texts(path, hashlib.blake2b())))


def test_a_file_that_may_not_be_read_is_named(criteo_file: Path) -> None:
    criteo_file.chmod(0)
    assert in_processes(1, _read_without_rights, criteo_file) == [
        f"cannot read {criteo_file}: Permission denied; check that it is a file you may read"
    ]


def _prepare_with_little_room(path: Path, limit: int) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return message_of(module(path).prepare_data)


@pytest.mark.parametrize("limit", [100, 150_000])
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(criteo_file: Path, limit: int) -> None:
    """The kernel refuses to let a file grow past a limit, as it would on a full disk."""
    assert in_processes(1, _prepare_with_little_room, criteo_file, limit) == [
        f"cannot write the cache {criteo_file.parent / 'cache'}: File too large; "
        "free space there or set another cache_dir"
    ]
    assert leftovers(criteo_file.parent / "cache") == []


def _prepare_when_all_are_ready(path: Path, count: int) -> tuple[int, str, str]:
    (path.parent / f"ready-{os.getpid()}").touch()
    while len(list(path.parent.glob("ready-*"))) < count:
        time.sleep(0.001)
    with patch.object(cache, "write_rows", wraps=cache.write_rows) as write_rows:
        data = prepared(path)
    rows = hashlib.sha256(encoded(data).tobytes()).hexdigest()
    return write_rows.call_count, data.fingerprint, rows


def test_processes_that_start_together_build_the_cache_once(criteo_file: Path) -> None:
    builds, fingerprints, found = zip(
        *in_processes(5, _prepare_when_all_are_ready, criteo_file, 5), strict=True
    )
    assert sum(builds) == 1
    assert set(fingerprints) == {prepared(criteo_file).fingerprint}
    assert set(found) == {hashlib.sha256(encode(rows(), 4096).tobytes()).hexdigest()}


def test_what_a_killed_build_left_is_replaced(criteo_file: Path) -> None:
    first = module(criteo_file)
    partial = criteo_file.parent / "cache" / f"{first._log.owner}.partial"
    partial.mkdir(parents=True)
    (partial / "rows.npy").write_bytes(b"half")
    assert np.array_equal(encoded(prepared(criteo_file)), encode(rows(), 4096))
    assert not partial.exists()


def test_one_byte_or_another_hash_size_makes_another_entry(criteo_file: Path) -> None:
    one = prepared(criteo_file)
    smaller = prepared(criteo_file, hash_size=64)
    assert int(smaller.train_dataset.__getitems__(range(1800)).categories.max()) == 63
    status = criteo_file.stat()
    criteo_file.write_bytes(text()[:-2] + (b"0" if text()[-2:-1] != b"0" else b"1") + b"\n")
    os.utime(
        criteo_file, ns=(status.st_atime_ns, status.st_mtime_ns)
    )  # a change that hides its time
    changed = prepared(criteo_file)
    assert len({one.fingerprint, smaller.fingerprint, changed.fingerprint}) == 3
    assert (encoded(one) != encoded(changed)).sum() == 1


def test_an_error_is_one_line_that_can_be_printed() -> None:
    error = DataError("a b\nc \x00 \udcff \u200b é 漢")
    assert str(error) == r"a b\nc \x00 \udcff \u200b é 漢"
    assert str(DataError(str(error))) == str(error)
