"""Measures exchanges between ranks on this machine and checks the cost model of a link against them.

    python -m benchmarks.exchanges [--workers 2] [--repeats 40]

For each operation: latency and bandwidth of Hockney's model, fitted to the median times of messages of
1 kB, 4 kB ... 16 MB, and the error of its prediction for 2 kB, 8 kB ... 8 MB, which it was not fitted to.
Beyond the size at which messages no longer fit a core's cache the bandwidth is another; where that is,
is fitted as well.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lightning_modules.backend.launch import Ranks, start_fork_server

SIZES = [2**exponent for exponent in range(10, 25)]  # bytes
Times = dict[int, float]


def measure(repeats: int, report: Callable[[str, Any], None]) -> dict[str, Times]:
    """A rank: median seconds by operation and by bytes of the tensor it is given."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    ranks = torch.distributed.get_world_size()
    found: dict[str, Times] = {}
    for name in ("send", "broadcast", "all_gather", "all_reduce"):
        for size in SIZES:
            tensor = torch.zeros(size // 4)
            parts = [torch.empty_like(tensor) for _ in range(ranks)]
            seconds = [_once(name, tensor, parts) for _ in range(repeats + 3)][3:]
            found.setdefault(name, {})[size] = float(np.median(seconds))
        report("progress", name)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return found


def _once(name: str, tensor: torch.Tensor, parts: list[torch.Tensor]) -> float:
    torch.distributed.barrier()
    start = time.perf_counter()
    match name:
        case "send":  # there and back, so that one clock sees it all
            rank = torch.distributed.get_rank()
            first, second = (torch.distributed.send, torch.distributed.recv)
            for operation in (first, second) if rank == 0 else (second, first):
                if rank < 2:
                    operation(tensor, 1 - rank)
        case "broadcast":
            torch.distributed.broadcast(tensor, 0)
            torch.distributed.barrier()  # the sender is done before the receivers are
        case "all_gather":
            torch.distributed.all_gather(parts, tensor)
        case "all_reduce":
            torch.distributed.all_reduce(tensor)
    return (time.perf_counter() - start) / (2 if name == "send" else 1)


def fit(times: Times, boundary: int) -> NDArray[np.float64]:
    """Latency, seconds a byte up to `boundary`, and beyond it, nearest in relative terms."""
    sizes, seconds = np.array(list(times)), np.array(list(times.values()))
    terms = _terms(sizes, boundary) / seconds[:, None]
    found: NDArray[np.float64] = np.linalg.lstsq(terms, np.ones(len(sizes)), rcond=None)[0]
    return found


def _terms(sizes: NDArray[Any], boundary: int) -> NDArray[np.float64]:
    near = np.minimum(sizes, boundary)
    return np.stack([np.ones(len(sizes)), near, sizes - near], axis=1)


def predict(fitted: NDArray[np.float64], sizes: NDArray[Any], boundary: int) -> NDArray[np.float64]:
    """Seconds of messages of these sizes."""
    predicted: NDArray[np.float64] = _terms(sizes, boundary) @ fitted
    return predicted


def main() -> None:
    options = argparse.ArgumentParser(description="Measure exchanges, check the model of a link.")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--repeats", type=int, default=40)
    chosen = options.parse_args()
    start_fork_server("torch")
    with Ranks(chosen.workers, measure, chosen.repeats) as ranks:
        found = {r: value for r, kind, value in ranks.messages() if kind == "result"}[0]
    grid = Table(title=f"gloo, {chosen.workers} ranks, median of {chosen.repeats}")
    for column in ("operation", "latency µs", "GB/s", "GB/s beyond", "boundary", "error"):
        grid.add_column(column, justify="left" if column == "operation" else "right")
    for name, times in found.items():
        known = {size: times[size] for size in SIZES[::2]}
        others = np.array(SIZES[1::2])
        measured = np.array([times[size] for size in others])
        boundary = min(SIZES[6:13], key=lambda size: _misfit(known, size))
        fitted = fit(known, boundary)
        errors = np.abs(predict(fitted, others, boundary) / measured - 1)
        grid.add_row(
            name,
            f"{1e6 * fitted[0]:.0f}",
            *(f"{1e-9 / per_byte:.2f}" if per_byte > 0 else "–" for per_byte in fitted[1:]),
            f"{boundary / 2**20:g} MiB",
            f"median {np.median(errors):.1%}, largest {errors.max():.1%}",
        )
    Console().print(grid)


def _misfit(times: Times, boundary: int) -> float:
    predicted = predict(fit(times, boundary), np.array(list(times)), boundary)
    return float(np.square(predicted / np.array(list(times.values())) - 1).sum())


if __name__ == "__main__":
    main()
