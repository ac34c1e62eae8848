"""Checks the intervals and tests of `statistics` by simulation; `docs/statistics.md` has the figures.

    paceline measure coverage [--simulations 100000] [--seed 0]

Figures and predictions are drawn from known distributions, and given to the functions that the reports
use. Printed are shares: of 95 % intervals that hold the true ratio, of comparisons of equal
configurations that are called different (false alarms), and of unequal ones that are found (power).
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from paceline.reports.measures.statistics import (
    CONFIDENCE,
    Interval,
    Logs,
    differing,
    pseudo_values,
    student,
    welch,
)

Draw = Callable[[Generator, tuple[int, ...]], NDArray[np.float64]]

ALPHA = 1 - CONFIDENCE
BATCH = 5_000  # simulations of churn that are held in memory at once
DIRECTIONS = 20  # the independent directions in which predictions vary
SHARED = 0.7  # the share of a retrain's variance that its seed causes under both configurations
# Distributions of the log of a figure over seeds.
TAILS: dict[str, Draw] = {
    "log-normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails (t, 3 d.f.)": lambda rng, shape: rng.standard_t(3, shape),
    "skewed (exponential)": lambda rng, shape: rng.standard_exponential(shape) - 1,
}


def coverage(
    n: int, draw: Draw, simulations: int, rng: Generator, paired: bool = True, wider: float = 1.0
) -> float:
    """The share of simulated intervals that contain the true ratio.

    Args:
        n: the number of seeds on each side.
        draw: draws logs of a figure, with mean 0.
        simulations: the number of intervals.
        rng: the random generator.
        paired: whether both sides have the same seeds. A seed then shifts both sides equally.
        wider: the spread of the first side divided by that of the second.
    """
    above, below = wider * draw(rng, (simulations, n)), draw(rng, (simulations, n))
    found = student(above - below) if paired else welch(above, below)
    return float((np.abs(found.centre) <= found.half).mean())


def retrains(n: int, uneven: float, simulations: int, rng: Generator) -> tuple[Logs, Logs]:
    """Distances between retrains of two equal configurations with the same seeds.

    Args:
        n: the number of seeds.
        uneven: the standard deviation, over seeds, of the log of the distance of a seed's predictions
            from the mean. At 0 all seeds have the same distance.
        simulations: the number of simulations.
        rng: the random generator.

    Returns:
        The distances of each configuration, [simulations, n, n].
    """
    shapes = ((simulations, n, DIRECTIONS), (simulations, n, 1))
    of_seed = [rng.standard_normal(shape) for shape in shapes]

    def distances() -> NDArray[np.float64]:
        where, far = (
            np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * rng.standard_normal(common.shape)
            for common in of_seed
        )
        predicted = np.exp(uneven * far) * where
        apart = np.abs(predicted[:, :, None] - predicted[:, None]).mean(axis=-1)
        return np.asarray(apart)

    return distances(), distances()


def churn_found(
    n: int,
    uneven: float,
    simulations: int,
    rng: Generator,
    paired: bool = True,
    true_ratio: float = 1.0,
) -> float:
    """The share of comparisons in which the churn of two configurations is called different.

    Args:
        n: as in `retrains`.
        uneven: as in `retrains`.
        simulations: as in `retrains`.
        rng: as in `retrains`.
        paired: whether both configurations have the same seeds.
        true_ratio: the churn of the first configuration divided by that of the second.
    """
    found = 0
    for start in range(0, simulations, BATCH):
        size = min(BATCH, simulations - start)
        first, second = retrains(n, uneven, size, rng)
        if not paired:
            second = retrains(n, uneven, size, rng)[1]
        above, below = pseudo_values(true_ratio * first), pseudo_values(second)
        tested: Interval = student(above - below) if paired else welch(above, below)
        found += int((tested.p < ALPHA).sum())
    return found / simulations


def tables(
    n: int,
    comparisons: int,
    slower: float,
    noise: float,
    simulations: int,
    rng: Generator,
    paired: bool = True,
) -> tuple[float, float]:
    """Simulates tables of several comparisons that Holm's procedure corrects.

    Args:
        n: the number of seeds on each side.
        comparisons: the number of independent comparisons in a table. All but the first compare equal
            figures.
        slower: the true ratio of the first comparison.
        noise: the standard deviation of the log of one figure. It does not depend on the seed.
        simulations: the number of tables.
        rng: the random generator.
        paired: whether seeds are paired, although they have no effect.

    Returns:
        The share of tables in which an equal figure is called different, and the share in which the
        first figure is called different.
    """
    above, below = noise * rng.standard_normal((2, simulations, comparisons, n))
    above[:, 0] += np.log(slower)
    tested = student(above - below) if paired else welch(above, below)
    verdicts = np.array([differing(row.tolist()) for row in tested.p])
    return float(verdicts[:, 1:].any(axis=1).mean()), float(verdicts[:, 0].mean())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="paceline measure coverage", description=__doc__)
    parser.add_argument("--simulations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    console = Console()
    for table in (_of_intervals, _of_churn, _of_tables):
        console.print(table(options.simulations, np.random.default_rng(options.seed)))


def _of_intervals(simulations: int, rng: Generator) -> Table:
    sizes = (2, 3, 4, 5, 7, 10)
    shown = Table(
        "logs over seeds", "seeds", *map(str, sizes), title="95 % intervals that cover (%)"
    )
    kinds = {
        "paired": (True, 1.0),
        "not paired": (False, 1.0),
        "not paired, one spreads twice as far": (False, 2.0),
    }
    for tails, draw in TAILS.items():
        for kind, (paired, wider) in kinds.items():
            shares = [coverage(n, draw, simulations, rng, paired, wider) for n in sizes]
            shown.add_row(tails, kind, *(f"{100 * share:.1f}" for share in shares))
    return shown


def _of_churn(simulations: int, rng: Generator) -> Table:
    sizes = (3, 4, 5, 7, 10)
    shown = Table(
        "true ratio", "seeds", "spread", *map(str, sizes), title="churns found to differ (%)"
    )
    for true_ratio in (1.0, 0.7, 0.5):
        for paired in (True, False):
            for uneven in (0.0, 0.3, 0.8):
                kind = "paired" if paired else "not paired"
                few = simulations // 5
                shares = [churn_found(n, uneven, few, rng, paired, true_ratio) for n in sizes]
                cells = [f"{100 * share:.1f}" for share in shares]
                shown.add_row(f"{true_ratio:g}", kind, f"{uneven:g}", *cells)
    return shown


def _of_tables(simulations: int, rng: Generator) -> Table:
    sizes = (3, 5, 10)
    title = "tables corrected by Holm: false alarm in a table, 5 % slower found (%)"
    shown = Table("comparisons", "noise", "seeds", *map(str, sizes), title=title)
    for comparisons in (4, 12, 24):
        for noise in (0.005, 0.01, 0.02):
            for paired in (True, False):
                cells = []
                for n in sizes:
                    few = simulations // 10
                    alarm, power = tables(n, comparisons, 1.05, noise, few, rng, paired)
                    cells.append(f"{100 * alarm:.1f}, {100 * power:.1f}")
                kind = "paired" if paired else "not paired"
                shown.add_row(str(comparisons), f"{100 * noise:g} %", kind, *cells)
    return shown
