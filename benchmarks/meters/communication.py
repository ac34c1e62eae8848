"""Measures how communication grows with the model and the number of workers, compared with a formula.

    unshare -Urn paceline measure communication [--figure docs/images/communication.svg]

Runs a few steps of each algorithm on the synthetic click log in real ranks: models of four sizes on four
workers, then one of these models on 2, 4 and 8 workers. The bytes are counted by the ledgers of the ranks
and, in a private network namespace as above, also by the kernel. An exponent is the slope of a straight
line fitted to the logarithms.
"""

import argparse
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator
from rich.console import Console
from rich.table import Table

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.trials.display import TerminalDisplay, console
from paceline.benchmarks.trials.following import follow
from paceline.lightning_modules.backend.local_ranks import start_fork_server
from paceline.lightning_modules.backend.phases import TRAINING
from paceline.reports.figures.look import COLOURS, MARKERS, STYLE, WIDTH, Look, legend

HASH_SIZES = [2, 512, 4096, 32768]  # click-through models of 38,817 to 6,854,345 parameters
WORKERS = [2, 4, 8]
SIZE, SCALE = HASH_SIZES[2], WORKERS[1]  # each is fixed while the other one varies
BATCH_SIZE, STEPS, PERIOD = 16, 20, 10


@dataclass(frozen=True)
class Cost:
    """The cost of an exchange by a formula.

    Attributes:
        worker_bytes: the bytes that a worker sends in an exchange, as a function of p, the number of
            parameters, and N, the number of workers.
        formula: the formula of `worker_bytes` as text.
        limit: the exponent of N, for large N, in the bytes that all workers send together.
        period: the number of steps from one exchange to the next.
    """

    worker_bytes: Callable[[Any, Any], Any]
    formula: str
    limit: int
    period: int = 1


def _all_reduce(p: Any, n: Any) -> Any:
    return 2 * (n - 1) / n * 4 * p


COSTS = {
    "sync_sgd": Cost(_all_reduce, "2 (N-1)/N 4p", 1),
    "downpour": Cost(lambda p, n: _all_reduce(p, n) + 8 * (n - 1), "2 (N-1)/N 4p + 8 (N-1)", 1),
    "admm": Cost(lambda p, n: _all_reduce(p + 2, n), "2 (N-1)/N (4p + 8)", 1, PERIOD),
    "model_averaging": Cost(_all_reduce, "2 (N-1)/N 4p", 1, PERIOD),
    "codistillation": Cost(lambda p, n: (n - 1) * 4 * p, "(N-1) 4p", 2, PERIOD),
}


def exponent(sizes: "pd.Series[Any]", values: "pd.Series[float]") -> float:
    """Returns the exponent with which `values` grow as a power of `sizes`."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def trials(hash_size: int, workers: int) -> list[Trial]:
    """Returns a trial of `STEPS` steps for each algorithm."""
    settings = {
        "workload.data.train_rows": STEPS * BATCH_SIZE * max(WORKERS),
        "workload.data.validation_rows": 100,
        "workload.data.hash_size": hash_size,
        "workload.budget.examples": STEPS * BATCH_SIZE * workers,
        "workload.budget.evaluations": 1,
        "scale.batch_size": BATCH_SIZE,
        "algorithms.admm.local_steps": PERIOD,
        "algorithms.model_averaging.tau": PERIOD,
        "algorithms.codistillation.period": PERIOD,
        "algorithms.codistillation.burn_in": PERIOD,
        **{f"algorithms.{label}.workers": [workers] for label in COSTS},
    }
    plan = load_benchmark("criteo", [f"--{name}={value}" for name, value in settings.items()])
    return replace(plan, algorithms={label: plan.algorithms[label] for label in COSTS}).trials()


def measure(trial: Trial, display: TerminalDisplay) -> dict[str, Any]:
    """Runs a trial and returns its algorithm, p, N and the bytes that a worker sends in an exchange.

    The bytes are those of the formula (`expected`), of the algorithm's own arithmetic (`computed`), of
    the ledger (`sent`) and of the kernel (`kernel`). The first two differ for Downpour, because the
    formula assumes shards of one size and workers that take equally many steps. The kernel also counts
    the few bytes of the rendezvous and of the measurement itself.
    """
    data = trial.workload.data.build()
    data.prepare_data()
    before = sent_bytes("lo")
    with TemporaryDirectory() as folder:
        results = follow(trial, Path(folder) / "ranks.log", display, lambda _: None)
    kernel = sent_bytes("lo") - before
    rows = [row for result in results.values() for row in result["ledger"]]
    sent = sum(row["wire_bytes"] for row in rows if row["phase"] in TRAINING)
    other = sum(row["wire_bytes"] for row in rows if row["phase"] not in TRAINING)
    cost, n, p = COSTS[trial.label], trial.workers, results[0]["parameters"]
    steps = sum(result["steps"] for result in results.values())
    exchanges = steps / cost.period  # of all workers
    return {
        "algorithm": trial.label,
        "p": p,
        "n": n,
        "expected": cost.worker_bytes(p, n),
        "computed": sum(r["expected_bytes_per_worker"] for r in results.values()) / exchanges,
        "sent": sent / exchanges,
        "kernel": (kernel - other) / exchanges,
    }


def sent_bytes(interface: str) -> int:
    """Returns the bytes that the kernel has counted on an interface of this network namespace."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            return int(counters.split()[8])
    raise RuntimeError(f"there is no interface {interface}")


def in_private_namespace() -> bool:
    """Returns whether this process is in a private network namespace, and if so turns on its loopback."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    private = [line.split(":")[0].strip() for line in lines] == ["lo"] and not sent_bytes("lo")
    if private:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return private


def varied(found: pd.DataFrame, algorithm: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the rows of an algorithm that differ only in p, and those that differ only in N."""
    own = found[found["algorithm"] == algorithm].sort_values(["p", "n"])
    size = own["p"].unique()[HASH_SIZES.index(SIZE)]
    return own[own["n"] == SCALE], own[own["p"] == size]


def draw(found: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Draws the bytes per step against p and against N, with the exponents in the legend.

    Marks are measured, and lines are the formula.
    """
    figure = Figure(figsize=(WIDTH, 2.8))
    left, right = figure.subplots(1, 2)
    handles = []
    for i, (label, cost) in enumerate(COSTS.items()):
        look = Look(COLOURS[i], MARKERS[i])
        in_p, in_n = varied(found, label)
        powers = []
        for axes, rows, x, senders in ((left, in_p, "p", 1), (right, in_n, "n", in_n["n"])):
            sent, expected = (rows[of] * senders / cost.period for of in ("sent", "expected"))
            powers.append(exponent(rows[x], sent))
            axes.plot(rows[x], expected, color=look.colour, lw=0.8)
            axes.plot(rows[x], sent, look.marker, color=look.colour, mfc="none", ms=6)
        handles.append(look.handle("{}: p^{:.2f}, N^{:.2f}".format(titles[label], *powers)))
    size = f"{varied(found, 'sync_sgd')[1]['p'].iloc[0]:,} parameters"
    for axes, xlabel, title in (
        (left, "parameters p", f"one worker of {SCALE}"),
        (right, "workers N", f"all workers together, {size}"),
    ):
        axes.loglog()
        axes.set_xlabel(xlabel)
        axes.set_ylabel("bytes sent a step")
        axes.set_title(title)
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.yaxis.set_major_formatter(EngFormatter("B"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
    right.set_xscale("log", base=2)
    right.set_xticks(WORKERS, [str(n) for n in WORKERS])
    legend(figure, handles)
    return figure


def _range(values: "pd.Series[float]") -> str:
    return f"{values.min():.4f} to {values.max():.4f}"


def table(found: pd.DataFrame, titles: dict[str, str], private: bool) -> Table:
    """Returns a table of the counts and the exponents. Shows those of the kernel only if `private`."""
    grid = Table(title="Bytes that a worker sends in an exchange; exponents measured (by formula)")
    grid.add_column("algorithm")
    grid.add_column("formula")
    for column in ("ledger / formula", "kernel / ledger", "of p", "of N, a worker", "of N, all"):
        grid.add_column(column, justify="right")
    grid.add_column("by kernel")
    grid.add_column("limit")
    for label, cost in COSTS.items():
        in_p, in_n = varied(found, label)
        whole = pd.concat([in_p, in_n])
        exponents = (
            tuple(exponent(rows[x], rows[of] * senders) for of in ("sent", "expected"))
            for rows, x, senders in ((in_p, "p", 1), (in_n, "n", 1), (in_n, "n", in_n["n"]))
        )
        by_kernel = exponent(in_n["n"], in_n["kernel"] * in_n["n"])
        grid.add_row(
            titles[label],
            cost.formula,
            _range(whole["sent"] / whole["expected"]),
            _range(in_n["kernel"] / in_n["sent"]) if private else "–",
            *("{:.3f} ({:.3f})".format(*pair) for pair in exponents),
            f"{by_kernel:.3f}" if private else "–",
            str(cost.limit),
        )
    return grid


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(
        "paceline measure communication",
        description="Measure how communication grows with p and N.",
    )
    options.add_argument("--figure", type=Path, help="an SVG file for the figure")
    chosen = options.parse_args(arguments)
    private = in_private_namespace()
    start_fork_server("paceline.benchmarks.trials.rank")
    points = dict.fromkeys([(size, SCALE) for size in HASH_SIZES] + [(SIZE, n) for n in WORKERS])
    planned = [trial for size, n in points for trial in trials(size, n)]
    with TerminalDisplay(Console(stderr=True)) as display:
        found = []
        for i, trial in enumerate(planned):
            display.trial(trial.title, i, len(planned))
            found.append(measure(trial, display))
    rows = pd.DataFrame(found)
    titles = {trial.label: trial.algorithm_class.title for trial in planned}
    console.print(table(rows, titles, private))
    if chosen.figure:
        with matplotlib.style.context(["default", STYLE]):
            draw(rows, titles).savefig(chosen.figure, metadata={"Date": None})
