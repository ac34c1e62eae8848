"""How fast Criteo rows are read, beside pandas and polars: `paceline measure ingest`.

Each reading runs in a process of its own, so that its peak memory is its own. Paceline's covers
checking, hashing, encoding and writing the cache from nothing; the other two only parse into a data
frame, and pandas leaves the hexadecimal fields as text. Shuffled batches of 256 then come from the
finished cache, which is not timed there. Imports are not timed either. The file is in the page cache
for all.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from paceline.benchmarks.trials.environment import cores, cpu_model
from paceline.datasets.click_log import ClickLog
from paceline.datasets.reading.criteo_format import FIELD_NAMES

BATCH_SIZE = 256

Reader = Callable[[Path, Path], float]


def paceline(file: Path, scratch: Path) -> float:
    """Returns the seconds to build the cache."""
    from paceline.datasets.criteo import Criteo

    data = Criteo(path=str(file), cache_dir=str(scratch))
    start = time.perf_counter()
    data.prepare_data()
    return time.perf_counter() - start


def pandas(file: Path, scratch: Path) -> float:
    """Returns the seconds to parse the file with pandas."""
    import pandas as pd

    start = time.perf_counter()
    pd.read_csv(file, sep="\t", header=None, names=list(FIELD_NAMES))
    return time.perf_counter() - start


def polars(file: Path, scratch: Path) -> float:
    """Returns the seconds to parse the file with polars, including the hexadecimal fields as numbers."""
    import polars as pl

    schema = {name: pl.String if name[0] == "C" else pl.Int64 for name in FIELD_NAMES}
    digits = pl.col(name for name in FIELD_NAMES if name[0] == "C").str.decode("hex")
    start = time.perf_counter()
    frame = pl.read_csv(file, separator="\t", has_header=False, schema=schema)
    frame.with_columns(digits.bin.reinterpret(dtype=pl.UInt32, endianness="big"))
    return time.perf_counter() - start


def shuffled_batches(file: Path, scratch: Path) -> float:
    """Returns the seconds of one pass over the training rows in random order by `__getitems__`."""
    from paceline.datasets.criteo import Criteo

    data = Criteo(path=str(file), validation_fraction=1e-9, cache_dir=str(scratch))
    data.setup()
    order = np.random.default_rng(0).permutation(len(data.train_dataset))
    start = time.perf_counter()
    for first in range(0, len(order), BATCH_SIZE):
        data.train_dataset.__getitems__(order[first : first + BATCH_SIZE])
    return time.perf_counter() - start


def write_file(target: Path, rows: int, source: Path | None) -> int:
    """Writes about `rows` rows of the synthetic log or of `source`, repeated. Returns their number."""
    if source is None:
        ClickLog(seed=0).write_text(target, "train", rows)
        return rows
    text = source.read_bytes()
    copies = max(1, rows // text.count(b"\n"))
    with target.open("wb") as stream:
        for _ in range(copies):
            stream.write(text)
    return copies * text.count(b"\n")


def measure(reader: Reader, file: Path) -> tuple[float, float]:
    """Returns the seconds and the peak resident memory in MB of one reading in a new process."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch, context.Pool(1) as pool:
        return pool.apply(_measured, (reader, file, Path(scratch)))


def _measured(reader: Reader, file: Path, scratch: Path) -> tuple[float, float]:
    seconds = reader(file, scratch)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _spread(figures: list[float]) -> str:
    return f"{statistics.median(figures):,.0f} ({min(figures):,.0f}-{max(figures):,.0f})"


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("paceline measure ingest", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to read")
    parser.add_argument("--data", type=Path, help="rows to repeat; default: the synthetic log")
    parser.add_argument("--repeats", type=int, default=5, help="readings a reader")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures the readers in turn, several times, and prints a table."""
    chosen = _parsed(arguments)
    readers: tuple[Reader, ...] = (paceline, polars, pandas, shuffled_batches)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.tsv"
        rows = write_file(file, chosen.rows, chosen.data)
        runs = [[measure(reader, file) for reader in readers] for _ in range(chosen.repeats)]
        megabytes = file.stat().st_size / 1e6

    source = chosen.data.name if chosen.data else "synthetic click log"
    table = Table(
        "reader",
        "rows/s",
        "peak MB",
        title=f"{rows:,} rows ({megabytes:.0f} MB) of {source}, {chosen.repeats} times: "
        f"median (min-max)\n{cores()} cores, {cpu_model()}, load {os.getloadavg()[0]:.1f}",
    )
    for reader, readings in zip(readers, zip(*runs, strict=True), strict=True):
        speeds = [rows / seconds for seconds, _ in readings]
        table.add_row(
            reader.__name__.replace("_", " "),
            _spread(speeds),
            _spread([peak for _, peak in readings]),
        )
    Console().print(table)
