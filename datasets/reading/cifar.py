"""Reads the Python version of CIFAR-10 and CIFAR-100: a folder of pickled batches, or its archive.

A batch is a pickled dictionary. `data`, uint8 [N, 3072], has the three colours of 32 x 32 pixels one
after the other. The labels are in `labels`, or in `fine_labels` for CIFAR-100. See Krizhevsky (2009),
"Learning Multiple Layers of Features from Tiny Images".
"""

import io
import pickle
import tarfile
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from paceline.datasets.reading.cache import DataError, explained
from paceline.datasets.reading.image_set import (
    PUBLISHED,
    ImageSet,
    LabelledImages,
    published_name,
    published_set,
)

BATCHES = {name: tuple(PUBLISHED[name]) for name in ("CIFAR-10", "CIFAR-100")}
CLASSES = {"CIFAR-10": 10, "CIFAR-100": 100}
TEST = ("test_batch", "test")
LARGEST_BATCH = 1 << 30  # bytes; the largest published batch has 155 MB
# The only names that a batch needs in addition to strings, numbers, lists and dictionaries.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


def is_cifar(path: Path) -> bool:
    """Returns whether `path` is a tar archive, or a folder with a test batch."""
    if path.is_dir():
        return any((path / name).is_file() for name in TEST)
    return path.name.endswith((".tar.gz", ".tgz", ".tar"))


def read_cifar(path: Path, validation_fraction: float) -> ImageSet:
    """Reads CIFAR-10 or CIFAR-100 from `path`. A random part of each class validates.

    Raises:
        DataError: a batch is missing, unreadable or damaged, or does not belong to the same set as the
            others.
    """
    contents = _from_folder(path) if path.is_dir() else _from_archive(path)
    kind = "CIFAR-10" if "test_batch" in contents else "CIFAR-100"
    for name in BATCHES[kind]:
        if name not in contents:
            raise DataError(f"{path} has no batch {name}, which {kind} has; unpack it again")
    contents = {name: contents[name] for name in BATCHES[kind]}
    name = published_name(path, contents) or path.resolve().name
    parts: dict[bool, list[LabelledImages]] = {False: [], True: []}
    for batch, content in contents.items():
        parts[batch in TEST].append(_batch(path / batch, content, CLASSES[kind]))
    return published_set(name, _joined(parts[False]), _joined(parts[True]), validation_fraction)


def _from_folder(folder: Path) -> dict[str, bytes]:
    with explained(f"cannot read {folder}", "check that you may read its files"):
        names = [name for names in BATCHES.values() for name in names]
        return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _from_archive(path: Path) -> dict[str, bytes]:
    wanted = {name for names in BATCHES.values() for name in names}
    contents = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and name in wanted:
                    if member.size > LARGEST_BATCH:
                        raise tarfile.ReadError(f"{name} is said to have {member.size} bytes")
                    contents[name] = cast(IO[bytes], archive.extractfile(member)).read()
    except (PermissionError, IsADirectoryError) as error:
        problem = f"cannot read {path}: {error.strerror}"
        raise DataError(f"{problem}; check that it is a file you may read") from error
    except Exception as error:  # a damaged archive can raise any exception
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not a whole tar archive: {reason}; fetch it again") from error
    return contents


class _BatchUnpickler(pickle._Unpickler):
    """An unpickler that loads only arrays. An ordinary pickle could run any code.

    It derives from the unpickler in pure Python. A damaged number can make the compiled one allocate any
    amount of memory.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        return super().find_class(module, name)


def _batch(file: Path, content: bytes, classes: int) -> LabelledImages:
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32)
        key = b"labels" if b"labels" in batch else b"fine_labels"
        labels = np.asarray(batch[key], np.int64)
    except Exception as error:  # a damaged pickle can raise any exception
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        raise DataError(f"{file} is not a batch of CIFAR: {reason}; fetch it again") from error
    if labels.shape != (len(images),) or not ((labels >= 0) & (labels < classes)).all():
        raise DataError(
            f"{file} has not one label of 0 to {classes - 1} for each of {len(images)} images;"
            " fetch it again"
        )
    return LabelledImages(images, labels)


def _joined(parts: list[LabelledImages]) -> LabelledImages:
    return LabelledImages(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
