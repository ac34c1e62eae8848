"""Rows in Criteo's format, and what reading them gives."""

from functools import cache
from pathlib import Path

import numpy as np

from paceline.datasets.click_log import ClickLog
from paceline.datasets.criteo import Criteo
from paceline.datasets.reading.criteo_format import ClickRows, to_text


@cache
def rows() -> ClickRows:
    """2000 rows, always the same; change a copy."""
    return ClickLog(seed=0).block("train", 0).rows.head(2000)


@cache
def text() -> bytes:
    """These rows as a file holds them."""
    return to_text(rows())


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
