"""Fetching public data sets, from a server on this machine."""

import gzip
import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import Any

import pytest

from paceline.benchmarks.cli.download import CHUNK, SETS, PublicSet, download, find_set
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.datasets.reading.cache import DataError
from paceline.datasets.text import Text
from tests import ROOT

CONTENT = random.Random(0).randbytes(3 * CHUNK + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACKED = gzip.compress(CONTENT)


@dataclass
class Site:
    """What a server holds, how it behaves, and what it was asked.

    Attributes:
        files: by path.
        stop_after: bytes of an answer after which it hangs up.
        ranges: whether it knows of them.
        asked: each path, with its range.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    stop_after: int | None = None
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Serves a site; asked as a proxy, it answers for every host."""

    def __init__(self, site: Site, *arguments: Any) -> None:
        self.site = site
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.path.removeprefix("http://").partition("/")[2]
        asked = self.headers["Range"] if self.site.ranges else None
        self.site.asked.append((path, asked))
        content = self.site.files.get(path)
        if content is None:
            self.send_error(404)
            return
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if begin >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[begin:][: self.site.stop_after])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(files={"set/a.bin": CONTENT, "set/b.gz": PACKED})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site)) as server:
        site.address = f"http://127.0.0.1:{server.server_port}"
        # It looks for the end of a test 50 times a second, not twice.
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield site
        server.shutdown()


@pytest.fixture
def wanted(site: Site) -> PublicSet:
    return PublicSet(
        "two files", "none", (f"{site.address}/set",), {"a.bin": SHA256, "b.gz": SHA256}, ""
    )


def fetch(wanted: PublicSet, folder: Path) -> list[tuple[str, int, int | None]]:
    """Downloads and gives the progress that was shown."""
    shown: list[tuple[str, int, int | None]] = []
    download(wanted, folder, lambda *progress: shown.append(progress))
    return shown


def refused(wanted: PublicSet, folder: Path) -> str:
    """The one line that whoever downloads is told."""
    with pytest.raises(DataError) as error:
        fetch(wanted, folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_come_whole_and_the_second_time_nothing_is_asked(site, wanted, tmp_path) -> None:
    shown = fetch(wanted, tmp_path / "new")
    assert (tmp_path / "new" / "a.bin").read_bytes() == CONTENT
    assert (tmp_path / "new" / "b.gz").read_bytes() == PACKED
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["a.bin", "b.gz"]
    assert ("a.bin", len(CONTENT), len(CONTENT)) in shown
    assert len(site.asked) == 2
    fetch(wanted, tmp_path / "new")
    assert len(site.asked) == 2


def test_a_transfer_that_ends_early_is_gone_on_with(site, wanted, tmp_path) -> None:
    site.stop_after = CHUNK + 5
    message = refused(wanted, tmp_path)
    assert message == (
        f"{site.address}/set/a.bin ended after 65,541 of 196,625 bytes; the same command goes on there"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin.part"]
    site.stop_after = None
    shown = fetch(wanted, tmp_path)
    assert site.asked[1] == ("set/a.bin", "bytes=65541-")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert shown[-1][2] == len(PACKED)


def test_a_server_without_ranges_begins_anew(site, wanted, tmp_path) -> None:
    site.ranges = False
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:100])
    fetch(wanted, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_was_whole_already_is_taken(site, wanted, tmp_path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    fetch(wanted, tmp_path)
    assert site.asked[0] == ("set/a.bin", f"bytes={len(CONTENT)}-")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(site, wanted, tmp_path) -> None:
    site.files["set/a.bin"] = b"another"
    found = hashlib.sha256(b"another").hexdigest()
    assert refused(wanted, tmp_path) == (
        f"{tmp_path}/a.bin.part: its content has SHA256 {found}, not {SHA256}; it came from"
        f" {site.address}/set/a.bin; try again later"
    )
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_does_not_survive(site, wanted, tmp_path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 10)
    assert "its content has SHA256" in refused(wanted, tmp_path)
    fetch(wanted, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_what_is_no_gzip_file_is_told(site, wanted, tmp_path) -> None:
    site.files["set/b.gz"] = b"<html>moved</html>"
    assert "b.gz.part is not a whole gzip file: Not a gzipped file" in refused(wanted, tmp_path)
    site.files["set/b.gz"] = PACKED[:-20]
    assert "b.gz.part is not a whole gzip file: Compressed file ended" in refused(wanted, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_another_file_in_its_place_is_left_alone(site, wanted, tmp_path) -> None:
    (tmp_path / "a.bin").write_bytes(b"mine")
    assert refused(wanted, tmp_path).endswith("move it away, and it is fetched")
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert not site.asked


def test_a_missing_file_is_told_and_another_address_tried(site, wanted, tmp_path) -> None:
    nowhere = f"{site.address}/nowhere"
    assert refused(replace(wanted, addresses=(nowhere,)), tmp_path) == (
        f"{nowhere}/a.bin answers 404 Not Found; check the network, or fetch a.bin by another way"
    )
    fetch(replace(wanted, addresses=(nowhere, *wanted.addresses)), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_told(wanted, tmp_path) -> None:
    (tmp_path / "file").touch()
    message = refused(wanted, tmp_path / "file" / "folder")
    assert message.endswith("Not a directory; name another folder with --to")


def test_an_unknown_set_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="no public data set 'mnits'; did you mean 'mnist'"):
        find_set("mnits")


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_addresses_checksums_and_terms(name: str) -> None:
    public = SETS[name]
    assert all(address.startswith(("https://", "http://")) for address in public.addresses)
    assert all(len(checksum) in (32, 64) for checksum in public.files.values())
    assert public.terms
    assert "{folder}" in public.use


# The command line, for which the server here is every host's proxy


def command(proxy: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "download", *arguments],
        cwd=ROOT,
        env=os.environ | dict.fromkeys(("http_proxy", "https_proxy"), proxy) | {"no_proxy": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_without_a_network_the_command_ends_with_one_line(tmp_path) -> None:
    with closing(socket()) as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = command(proxy, "fashion-mnist", "--to", str(tmp_path))
    assert done.returncode == 2
    assert "terms: MIT licence, copyright 2017 Zalando SE" in done.stdout
    assert done.stderr == (
        "error: cannot reach http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
        "train-images-idx3-ubyte.gz: Connection refused; check the network, or fetch"
        " train-images-idx3-ubyte.gz by another way\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("PACELINE_DATA" not in os.environ, reason="PACELINE_DATA is not set")
def test_fashion_mnist_arrives_as_it_was_published(site, tmp_path) -> None:
    folder = Path(os.environ["PACELINE_DATA"]) / "fashion-mnist"
    for name in SETS["fashion-mnist"].files:
        site.files[name] = (folder / name).read_bytes()
    done = command(site.address, "fashion-mnist", "--to", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"next: paceline run fashion-mnist --data {tmp_path}" in done.stdout
    for name, content in site.files.items():
        if not name.startswith("set/"):
            assert (tmp_path / name).read_bytes() == content


@pytest.mark.skipif("PACELINE_DATA" not in os.environ, reason="PACELINE_DATA is not set")
@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "mnist"), ("penn-treebank", "ptb"), ("tiny-shakespeare", "shakespeare")],
)
def test_the_checksums_are_those_of_the_real_files(site, tmp_path, name, folder) -> None:
    public = replace(SETS[name], addresses=(f"{site.address}/real",))
    for file in public.files:
        path = Path(os.environ["PACELINE_DATA"]) / folder / file
        packed = path.with_name(f"{file}.gz")
        content = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
        site.files[f"real/{file}"] = content
    fetch(public, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(public.files)
    if name == "penn-treebank":  # in the layout that the reader knows
        data = Text(str(tmp_path), cache_dir=str(tmp_path / "cache"))
        data.prepare_data()
        data.setup("fit")
        assert data.description["train_tokens"] == 929_589
