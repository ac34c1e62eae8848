"""Measures the steps of every algorithm beside plain PyTorch.

    paceline measure steps [--workers 1 2] [--models small paper] [--blocks 40]

Every rank trains on the click-through benchmark. After a block of steps of the algorithm, it takes as
many steps of a hand-written loop, with a copy of the model, the same optimizer and batches of the same
data. The loop does what the ranks of one replica do: it is a plain loop if a replica has one rank, and
torch's DistributedDataParallel if it has more. So the ratio shows what Paceline and the exchanges of the
algorithm cost. Steps of the algorithm are measured with everything between them, such as the clock.

The ratio is that of the medians over the blocks of rank 0. Its interval is the percentile bootstrap over
pairs of blocks. Blocks alternate, so that other load on the machine affects both alike. Asynchronous
algorithms are measured on one worker only, because the barriers between blocks would keep their ranks in
step.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice
from typing import Any, cast

import numpy as np
import torch.distributed
from rich.table import Table
from scipy.stats import bootstrap

from paceline.benchmarks.meters.overhead import plan
from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.trials.display import TerminalDisplay, console
from paceline.lightning_modules.backend.launch import Ranks
from paceline.lightning_modules.backend.local_ranks import start_fork_server
from paceline.reports.measures.statistics import CONFIDENCE, Ratio

BLOCK = 10  # steps
WARM_UP = 15  # blocks, until codistillation has teachers
Blocks = list[tuple[float, float]]


def rank(trial: Trial, report: Callable[[str, Any], None]) -> Blocks:
    """Does the work of a rank, with steps of a hand-written loop between those of the algorithm.

    Returns:
        The seconds of a step of the algorithm and of the loop, for every block after the warm-up.
    """
    from pytorch_lightning import Callback, LightningModule, Trainer
    from torch.nn.parallel import DistributedDataParallel

    from paceline.benchmarks.trials.rank import run_rank
    from paceline.datasets.batches import BatchOrder, BatchStream, with_batches
    from paceline.lightning_modules.backend.algorithm import Algorithm

    class ByHand(Callback):
        def __init__(self) -> None:
            self.blocks: Blocks = []
            self.since = 0.0

        def on_train_start(self, trainer: Trainer, algorithm: LightningModule) -> None:
            self.task = deepcopy(cast(Algorithm, algorithm).task)
            self.model = self.task
            if trial.layout.ranks > 1:
                self.model = DistributedDataParallel(self.task)  # type: ignore[assignment]
            self.optimizer = self.task.configure_optimizer(self.task.parameters())
            loader: Any = trainer.train_dataloader
            order = BatchOrder(len(loader.dataset), trial.batch_size)
            enough = trial.workload.budget.examples
            stream = BatchStream(order, trainer.global_rank, trainer.world_size, every=enough)
            self.batches = iter(with_batches(loader, stream))

        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step % BLOCK:
                return
            begun = time.perf_counter()
            torch.distributed.barrier()
            start = time.perf_counter()
            for batch in islice(self.batches, BLOCK):
                self.optimizer.zero_grad()
                self.task.loss(self.model(batch), self.task.labels(batch)).backward()
                self.optimizer.step()
            end = time.perf_counter()
            self.blocks.append(((begun - self.since) / BLOCK, (end - start) / BLOCK))
            torch.distributed.barrier()
            self.since = time.perf_counter()

        def on_train_end(self, *_: Any) -> None:
            # The group must not end together with the last model that uses it.
            del self.model, self.batches
            gc.collect()

    by_hand = ByHand()
    run_rank(trial, report, [by_hand])
    # A block of the algorithm ends where the next one of the loop begins.
    own, loop = zip(*by_hand.blocks, strict=True)
    return list(zip(own[1:], loop[:-1], strict=True))[WARM_UP:]


def ratio(blocks: Blocks) -> Ratio:
    """Returns the ratio of the median of the first figures to that of the second, with its interval."""
    first, second = np.array(blocks).T

    def of_medians(first: Any, second: Any, axis: int = -1) -> Any:
        return np.median(first, axis) / np.median(second, axis)

    interval = bootstrap(
        (first, second),
        of_medians,
        n_resamples=1999,
        confidence_level=CONFIDENCE,
        method="percentile",
        paired=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    value = float(of_medians(first, second))
    return Ratio(value, float(interval.low), float(interval.high), repetitions=len(blocks))


def trials(workers: int, model: str, blocks: int) -> Iterator[Trial]:
    """Yields a short trial of every algorithm that can be measured on this number of workers."""
    steps = (WARM_UP + blocks) * BLOCK + 1
    settings = {"scale.workers": [workers], "workload.task.preset": model}
    for trial in plan(workers, steps, 1, settings).trials():
        if trial.workers == workers and (workers == 1 or not trial.algorithm_class.asynchronous):
            yield trial


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(
        "paceline measure steps", description="Measure the steps of every algorithm beside PyTorch."
    )
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options.add_argument("--models", nargs="+", default=["small", "paper"], help="presets")
    options.add_argument("--blocks", type=int, default=40, help=f"of {BLOCK} steps")
    options.add_argument("--only", nargs="+", metavar="ALGORITHM", help="leave out the others")
    chosen = options.parse_args(arguments)
    start_fork_server("paceline.benchmarks.trials.rank", "paceline.benchmarks.meters.steps")
    grid = Table(title=f"A step beside plain PyTorch, medians of {chosen.blocks} blocks")
    for column in ("algorithm, workers", "model", "beside", "ms", "by hand", "ratio [95 %]"):
        grid.add_column(column, justify="left" if column in ("model", "beside") else "right")
    planned = [
        (model, trial)
        for model in chosen.models
        for workers in chosen.workers
        for trial in trials(workers, model, chosen.blocks)
        if not chosen.only or trial.label in chosen.only
    ]
    with TerminalDisplay(console) as display:
        for i, (model, trial) in enumerate(planned):
            display.trial(trial.title, i, len(planned))
            with Ranks(trial.workers, rank, trial) as ranks:
                found = {r: value for r, kind, value in ranks.messages() if kind == "result"}[0]
            own, by_hand = 1e3 * np.median(np.array(found), axis=0)
            beside = "DDP" if trial.layout.ranks > 1 else "loop"
            cells = (f"{own:.2f}", f"{by_hand:.2f}", str(ratio(found)))
            grid.add_row(f"{trial.label}, {trial.workers}", model, beside, *cells)
    console.print(grid)
