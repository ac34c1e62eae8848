"""What one rank of a trial does: build data, model and algorithm, train, and report."""

import hashlib
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from benchmarks.config import Trial
from datasets.partition import BatchStream
from lightning_modules.backend.algorithm import Algorithm
from lightning_modules.backend.clock import Clock
from lightning_modules.backend.strategy import DeepSpeedBackend, keep_off_gpus

EVALUATION_BATCH = 8192
Report = Callable[[str, Any], None]


class Diverged(RuntimeError):
    """The training loss is no longer a number."""


def stream(seed: int, name: str) -> int:
    """The seed of the random stream `name`: data order, initialisation and so on each have their own."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


def schedule(trial: Trial, rows: int) -> tuple[int, int]:
    """The steps of a trial over `rows` training examples and the steps between two evaluations.

    Training ends with an evaluation, so the budget is rounded to whole intervals: by half an interval
    at most, and there may be a few evaluations more or less than asked for.
    """
    budget = trial.workload.budget
    examples = min(budget.examples, budget.epochs * rows)
    steps = max(1, round(examples / (trial.batch_size * trial.workers)))
    every = max(1, round(steps / budget.evaluations))
    return every * max(1, round(steps / every)), every


class Meter(Callback):
    """Keeps the clock and the ledger's phase, and reports the curve."""

    def __init__(self, backend: DeepSpeedBackend, examples_per_step: int, report: Report) -> None:
        self.backend, self.ledger, self.report = backend, backend.ledger, report
        self.examples_per_step = examples_per_step
        self.steps, self.reported, self.weights_sha256 = 0, 0.0, ""

    @property
    def clock(self) -> Clock:
        return self.backend.clock

    def on_train_start(self, trainer: Trainer, algorithm: LightningModule) -> None:
        self.loss_sum = torch.zeros((), device=self.backend.root_device)
        self._start()

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.enter("train")

    def on_train_batch_end(
        self, trainer: Trainer, algorithm: LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.loss_sum += outputs["loss"]
        self.steps += 1
        if time.monotonic() - self.reported > 0.25:
            self.reported = time.monotonic()
            loss = outputs["loss"].item()
            if not math.isfinite(loss):
                raise Diverged(f"the training loss is {loss} at step {trainer.global_step}")
            self.report("progress", {"step": trainer.global_step, "train_loss": loss})
        self.clock.enter("data")

    def on_validation_start(self, trainer: Trainer, algorithm: LightningModule) -> None:
        self.clock.stop()
        self.ledger.phase = "evaluation"

    def on_validation_end(self, trainer: Trainer, algorithm: LightningModule) -> None:
        messages, wire = self.ledger.sent("train", "exchange")
        seconds, cpu_seconds = self._over_ranks(
            torch.distributed.ReduceOp.MAX, self.clock.total, self.clock.cpu_seconds
        )
        loss, *sent = self._over_ranks(
            torch.distributed.ReduceOp.SUM,
            self.loss_sum.item() / max(self.steps, 1),
            wire,
            messages,
        )
        ranks = trainer.world_size
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} at step {trainer.global_step}")
        self.report(
            "point",
            {
                "step": trainer.global_step,
                "examples": trainer.global_step * self.examples_per_step,
                "train_seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "bytes_sent_per_worker": sent[0] / ranks,
                "messages_per_worker": sent[1] / ranks,
                "train_loss": loss / ranks,
                **{name: value.item() for name, value in trainer.callback_metrics.items()},
            },
        )
        self.loss_sum.zero_()
        self.steps = 0
        self._start()

    def on_train_end(self, trainer: Trainer, algorithm: LightningModule) -> None:
        self.clock.stop()
        self.ledger.phase = "end"
        evaluated = cast(Algorithm, algorithm).evaluated_weights()
        weights = self.backend.weights() if evaluated is None else evaluated
        self.weights_sha256 = hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()

    def _start(self) -> None:
        self.backend.release_gathered()
        self.backend.barrier()
        self.ledger.phase = "train"
        self.clock.enter("data")

    def _over_ranks(self, operation: Any, *values: float) -> list[float]:
        # Straight through torch, not through DeepSpeed: measuring is not the algorithm's traffic.
        tensor = torch.tensor(values, dtype=torch.float64, device=self.backend.root_device)
        torch.distributed.all_reduce(tensor, operation)
        return tensor.tolist()


class Continue(Callback):
    """Where training is resumed, lets the stream of batches go on at the step of the checkpoint."""

    def __init__(self, batches: BatchStream) -> None:
        self.batches = batches

    def on_load_checkpoint(
        self, trainer: Trainer, algorithm: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        self.batches.start_step = progress["total"]["ready"]


def training_batches(loader: DataLoader[Any], trial: Trial, rank: int) -> BatchStream:
    """The stream of training batches of one rank."""
    order = stream(trial.seed, "order")
    return BatchStream(_rows(loader), trial.batch_size, rank, trial.workers, order)


def validation_batches(loader: DataLoader[Any], trial: Trial, rank: int) -> list[Any]:
    """One rank's part of the validation rows, in batches."""
    rows = np.array_split(np.arange(_rows(loader)), trial.workers)[rank]
    return np.array_split(rows, math.ceil(len(rows) / EVALUATION_BATCH))


def _rows(loader: DataLoader[Any]) -> int:
    return len(loader.dataset)  # type: ignore[arg-type]


def _with_batches(loader: DataLoader[Any], batches: Any) -> DataLoader[Any]:
    """The loader of a data module, with our batches in place of its own."""
    return DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn)


def build(trial: Trial, rank: int) -> tuple[LightningDataModule, Algorithm]:
    """The data and the algorithm of a trial, the same on every rank but for its random streams."""
    data = trial.workload.data.build()
    data.setup("fit")
    torch.manual_seed(stream(trial.seed, "initialisation"))
    task = trial.workload.task.build(**{name: getattr(data, name) for name in data.provides})
    algorithm = trial.algorithm_class(task, **trial.hyper_parameters)
    torch.manual_seed(stream(trial.seed, f"rank {rank}"))
    return data, algorithm


def run_rank(
    trial: Trial,
    report: Report,
    callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Trains `trial` as one of its ranks and returns the figures of this rank.

    Which rank it is stands in the environment, as torchrun and the fork server leave it.

    Args:
        trial: what to train.
        report: sends a message to the parent.
        callbacks: whoever else wants to see the training.
        checkpoint: the folder of a checkpoint to go on from.

    Raises:
        Diverged: the training loss is not finite.
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Batches are cut from memory, so loader processes would only cost; the torchmetrics that are
    # logged have been reduced over the ranks already.
    warnings.filterwarnings("ignore", ".*(does not have many workers|sync_dist=True).*")
    torch.set_num_threads(trial.threads)
    os.environ["OMP_NUM_THREADS"] = str(trial.threads)  # else Lightning takes all cores again
    rank = int(os.environ["RANK"])
    data, algorithm = build(trial, rank)
    training, validation = data.train_dataloader(), data.val_dataloader()
    batches = training_batches(training, trial, rank)
    layout = trial.algorithm_class.layout(trial.workers, **trial.hyper_parameters)
    steps, every = schedule(trial, batches.examples)
    if trial.accelerator == "cpu":
        keep_off_gpus()
    backend = DeepSpeedBackend(layout, trial.zero_stage)
    meter = Meter(backend, trial.batch_size * trial.workers, report)
    trainer = Trainer(
        accelerator=trial.accelerator,
        devices=trial.workers,
        strategy=backend,
        max_steps=steps,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[meter, Continue(batches), *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    report("progress", {"step": 0, "steps": steps})
    trainer.fit(
        algorithm,
        _with_batches(training, batches),
        _with_batches(validation, validation_batches(validation, trial, rank)),
        ckpt_path=checkpoint,
    )
    clock, ledger = backend.clock, backend.ledger
    result = {
        "device": clock.device.type,
        "steps": steps,
        "replicas": layout.replicas,
        "phases": clock.seconds,
        "send_seconds": ledger.seconds["train"] + ledger.seconds["exchange"],
        "cpu_seconds": clock.cpu_seconds,
        "ledger": ledger.rows(),
        "expected_bytes_per_worker": algorithm.expected_bytes(layout, trial.zero_stage, steps),
        "parameters": algorithm.model_bytes // 4,
        "weights_sha256": meter.weights_sha256,
    }
    # A rank that leaves while its peers still talk to it makes them abort.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return result
