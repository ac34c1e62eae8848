"""Measures exchanges between ranks on this machine and compares them with the cost model of a link.

    paceline measure exchanges [--workers 2] [--rounds 100]

For each operation, the table shows the latency and the bandwidth of Hockney's model, fitted to messages
of 1 kB, 2 kB ... 16 MB, and the errors of its predictions. The prediction for a size comes from a fit to
every other size, so that the fit has not seen the size that it predicts; 16 MB is larger than all sizes
of its fit. Every round times each operation once with each size. The order is drawn anew in each round,
so that other load on the machine affects all of them alike. The model is fitted to lower deciles, which
are the times of exchanges that were not delayed, and to medians.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

from paceline.lightning_modules.backend.launch import Ranks
from paceline.lightning_modules.backend.local_ranks import start_fork_server
from paceline.reports.measures.link import Link

SIZES = [2**exponent for exponent in range(10, 25)]  # bytes
OPERATIONS = ("send", "broadcast", "all_gather", "all_reduce")
WARM_UP = 2  # rounds
Times = dict[int, list[float]]


def measure(rounds: int, report: Callable[[str, Any], None]) -> dict[str, Times]:
    """Does the work of a rank: times every operation with every size of tensor, once in each round.

    Returns:
        The seconds of each round, by operation and by the bytes of the tensor.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    ranks = torch.distributed.get_world_size()
    tensors = {size: torch.zeros(size // 4) for size in SIZES}
    gathered = {size: torch.empty(ranks * size // 4) for size in SIZES}
    found: dict[str, Times] = {name: {size: [] for size in SIZES} for name in OPERATIONS}
    cases = [(name, size) for name in OPERATIONS for size in SIZES]
    order = np.random.default_rng(0)  # the same on every rank
    for i in range(WARM_UP + rounds):
        for case in order.permutation(len(cases)):
            name, size = cases[case]
            seconds = _once(name, tensors[size], gathered[size])
            if i >= WARM_UP:
                found[name][size].append(seconds)
        report("progress", i)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return found


def _once(name: str, tensor: torch.Tensor, gathered: torch.Tensor) -> float:
    torch.distributed.barrier()
    start = time.perf_counter()
    match name:
        case "send":  # there and back, so that one clock measures the whole
            rank = torch.distributed.get_rank()
            first, second = (torch.distributed.send, torch.distributed.recv)
            for operation in (first, second) if rank == 0 else (second, first):
                if rank < 2:
                    operation(tensor, 1 - rank)
        case "broadcast":
            torch.distributed.broadcast(tensor, 0)
            torch.distributed.barrier()  # the sender is done before the receivers are
        case "all_gather":
            torch.distributed.all_gather_into_tensor(gathered, tensor)
        case "all_reduce":
            torch.distributed.all_reduce(tensor)
    return (time.perf_counter() - start) / (2 if name == "send" else 1)


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> Link:
    """Returns the link that fits the times of messages of these sizes with the least relative error.

    The fit is by least squares. Neither the latency nor the bandwidth is negative.
    """
    terms = np.stack([np.ones(len(sizes)), np.asarray(sizes)], axis=1) / np.c_[seconds]
    (latency, per_byte), _ = nnls(terms, np.ones(len(sizes)))
    return Link(float(latency), 1 / per_byte if per_byte else math.inf)


def errors(times: Times, share: float) -> tuple[Link, dict[int, float]]:
    """Returns the link fitted to all sizes, and the relative error for each size.

    The error for a size is that of a fit to every other size.

    Args:
        times: the times of each size, in seconds.
        share: the quantile of the times that represents a size, e.g. 0.5 for the median.
    """
    seconds = {size: float(np.quantile(values, share)) for size, values in times.items()}

    def fitted(sizes: Sequence[int]) -> Link:
        return fit(sizes, [seconds[size] for size in sizes])

    found = {}
    for known, others in ((SIZES[::2], SIZES[1::2]), (SIZES[1::2], SIZES[::2])):
        link = fitted(known)
        found.update({size: abs(link.message(1, size) / seconds[size] - 1) for size in others})
    return fitted(SIZES), found


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(
        "paceline measure exchanges", description="Measure exchanges, check the model of a link."
    )
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--rounds", type=int, default=100)
    chosen = options.parse_args(arguments)
    start_fork_server("torch")
    with Ranks(chosen.workers, measure, chosen.rounds) as ranks:
        found = {r: value for r, kind, value in ranks.messages() if kind == "result"}[0]
    grid = Table(
        title=f"gloo, {chosen.workers} ranks, {chosen.rounds} rounds: errors, median (largest, at kB)"
    )
    for column in ("operation", "latency µs", "GB/s", "lower deciles", "medians"):
        grid.add_column(column, justify="left" if column == "operation" else "right")
    for name, times in found.items():
        link, of_deciles = errors(times, 0.1)
        _, of_medians = errors(times, 0.5)
        grid.add_row(
            name,
            f"{1e6 * link.latency_s:.0f}",
            f"{1e-9 * link.bytes_per_s:.2f}",
            *map(_summary, (of_deciles, of_medians)),
        )
    Console().print(grid)


def _summary(errors: dict[int, float]) -> str:
    worst = max(errors, key=errors.__getitem__)
    return f"{np.median([*errors.values()]):.1%} ({errors[worst]:.1%}, {worst // 1024})"
