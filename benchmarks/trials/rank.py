"""What one rank of a trial does: build data, model and algorithm, train, and report."""

import hashlib
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch
import torch.distributed
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.trials.faults import FaultInjector
from paceline.datasets.batches import BatchOrder, BatchStream, TicketStream, with_batches
from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.clock import Clock
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.strategy import DeepSpeedBackend, keep_off_gpus

LOSSES = 256  # added up at once, as adding costs as much as all else that is measured in a step
EVALUATION_BATCH = 8192  # unless the data module has an `evaluation_batch`
# Of the first validation rows, kept with the trial so that retrains can be compared.
PREDICTED_ROWS, PREDICTED_VALUES = 10_000, 2_000_000
Report = Callable[[str, Any], None]


class Diverged(RuntimeError):
    """The training loss is no longer a number."""


def stream(seed: int, name: str, replica: int = 0) -> int:
    """The seed of the random stream `name`: data order, initialisation and so on each have their own.

    Replica 0 has that of a trial without replicas.
    """
    name = f"{name} {replica}" if replica else name
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

    def __init__(
        self,
        backend: DeepSpeedBackend,
        batch_size: int,
        to_predict: DataLoader[Any],
        report: Report,
    ) -> None:
        self.backend, self.ledger, self.report = backend, backend.ledger, report
        self.batch_size, self.to_predict = batch_size, to_predict
        self.reported = 0.0
        self.weights_sha256 = ""
        self.predictions: dict[str, np.ndarray] = {}

    @property
    def clock(self) -> Clock:
        return self.backend.clock

    @property
    def compute_seconds(self) -> float:
        """Training time of this rank, had sending taken none: what a model of the link adds to."""
        if self.clock.device.type == "cpu":
            return self.clock.cpu_seconds  # also where ranks take turns on a core
        sending = self.ledger.seconds["train"] + self.ledger.seconds["exchange"]
        return self.clock.total - sending

    def on_train_epoch_start(self, trainer: Trainer, algorithm: LightningModule) -> None:
        # An epoch of Lightning's is what lies between two evaluations.
        self.backend.release_gathered()
        self.backend.barrier()
        self.loss_sum, self.steps = 0.0, 0
        self.losses: list[torch.Tensor] = []
        self.ledger.phase = "train"
        self.clock.enter("data")

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.enter("train")

    def on_train_batch_end(
        self, trainer: Trainer, algorithm: LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.losses.append(outputs["task_loss"])
        if len(self.losses) == LOSSES:
            self._add_losses()
        self.steps += 1
        if time.monotonic() - self.reported > 0.25:
            self.reported = time.monotonic()
            loss = outputs["task_loss"].item()
            if not math.isfinite(loss):
                raise Diverged(f"the training loss is {loss} at step {trainer.global_step}")
            self.report("progress", {"step": trainer.global_step, "train_loss": loss})
        self.clock.enter("data")

    def _add_losses(self) -> None:
        if self.losses:
            self.loss_sum += torch.stack(self.losses).sum().item()
            self.losses.clear()

    def on_validation_start(self, trainer: Trainer, algorithm: LightningModule) -> None:
        self.clock.stop()
        self._add_losses()
        self.ledger.phase = "evaluation"

    def on_validation_end(self, trainer: Trainer, algorithm: LightningModule) -> None:
        messages, wire = self.ledger.sent("train", "exchange")
        seconds, compute_seconds = self._over_ranks(
            torch.distributed.ReduceOp.MAX, self.clock.total, self.compute_seconds
        )
        figures = cast(Algorithm, algorithm).figures()
        loss, steps, all_steps, *sums = self._over_ranks(
            torch.distributed.ReduceOp.SUM,
            self.loss_sum,
            self.steps,
            trainer.global_step,
            wire,
            messages,
            *figures.values(),
        )
        sent, sent_messages, *means = (total / trainer.world_size for total in sums)
        # Ranks that do not wait for one another take steps of different numbers.
        step = round(all_steps / trainer.world_size)
        loss /= max(steps, 1)
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} at step {step}")
        self.report(
            "point",
            {
                "step": step,
                "examples": all_steps * self.batch_size,
                "train_seconds": seconds,
                "compute_seconds": compute_seconds,
                "bytes_sent_per_worker": sent,
                "messages_per_worker": sent_messages,
                "train_loss": loss,
                **{name: value.item() for name, value in trainer.callback_metrics.items()},
                **dict(zip(figures, means, strict=True)),
            },
        )

    def on_train_end(self, trainer: Trainer, algorithm: LightningModule) -> None:
        self.clock.stop()
        self.ledger.phase = "end"
        algorithm = cast(Algorithm, algorithm)
        with algorithm.as_evaluated():
            weights = self.backend.weights()
            self.predictions = self._predict(algorithm)
        self.weights_sha256 = hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()

    @torch.no_grad()
    def _predict(self, algorithm: Algorithm) -> dict[str, np.ndarray]:
        """Predictions by the name of who serves them, on as many rows as there is room for."""
        algorithm.eval()
        parts: dict[str, list[np.ndarray]] = {}
        room = 1
        for batch in self.to_predict:
            if not room:
                break
            batch = self.backend.batch_to_device(batch)
            for name, predicted in algorithm.predictions(batch).items():
                kept = parts.setdefault(name, [])
                a_row = predicted[0].numel()
                room = max(0, PREDICTED_VALUES // a_row - sum(map(len, kept)))
                kept.append(predicted[:room].float().cpu().numpy())
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def _over_ranks(self, operation: Any, *values: float) -> list[float]:
        # Straight through torch, not through DeepSpeed: measuring is not the algorithm's traffic.
        tensor = torch.tensor(values, dtype=torch.float64, device=self.backend.root_device)
        torch.distributed.all_reduce(tensor, operation)
        return tensor.tolist()


class Continue(Callback):
    """Where training is resumed, lets the stream of batches go on where the checkpoint was written."""

    def __init__(self, batches: BatchStream) -> None:
        self.batches = batches

    def on_load_checkpoint(
        self, trainer: Trainer, algorithm: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loop = checkpoint["loops"]["fit_loop"]
        step = loop["epoch_loop.batch_progress"]["total"]["ready"]
        segment = self.batches.go_on(step, checkpoint["epoch"])
        # Lightning is told that it begins an epoch of its own: it cannot skip into one.
        for name, total, current in (
            ("epoch_progress", segment, segment),
            ("epoch_loop.batch_progress", step, 0),
        ):
            loop[name]["total"] = dict.fromkeys(loop[name]["total"], total)
            loop[name]["current"] = dict.fromkeys(loop[name]["current"], current)
        loop["epoch_loop.batch_progress"]["is_last_batch"] = False


def training_batches(
    trial: Trial, algorithm: Algorithm, part: np.ndarray, rank: int, every: int
) -> BatchStream:
    """The stream of training batches of one rank, whose replica trains on the rows `part`."""
    layout = trial.layout
    replica, place = layout.replica_of(rank), rank % layout.ranks
    kind = trial.partition.kind
    seed = stream(trial.seed, "order", 0 if kind in ("iid", "same") else replica)
    order = BatchOrder(part, trial.batch_size, seed)
    if algorithm.asynchronous:
        draw = algorithm.tickets(rank, _ticket)
        return TicketStream(order, draw, kind != "iid", trial.workers, every)
    if kind == "iid":
        return BatchStream(order, rank, trial.workers, every)
    return BatchStream(order, place, layout.ranks, every)


def _ticket() -> int:
    # From the rendezvous store, which the parent holds: no rank has to answer another.
    store = torch.distributed.distributed_c10d._get_default_store()
    return int(store.add("paceline/ticket", 1)) - 1


def partition(
    trial: Trial, algorithm: Algorithm, loader: DataLoader[Any], batch: int = EVALUATION_BATCH
) -> list[np.ndarray]:
    """The training rows of each replica; labels are read `batch` rows at a time."""
    rows = _rows(loader)
    labels = None
    if trial.partition.needs_labels:
        batches = with_batches(loader, _batches(np.arange(rows), batch))
        labels = np.concatenate([algorithm.task.labels(batch).numpy() for batch in batches])
    seed = stream(trial.seed, "partition")
    return trial.partition.parts(rows, trial.layout.replicas, seed, labels)


def validation_batches(
    rows: int, algorithm: Algorithm, layout: Layout, rank: int, batch: int = EVALUATION_BATCH
) -> list[Any]:
    """One rank's part of the validation rows, in batches: those of its world, or of its replica."""
    sharers = layout.world_size if algorithm.one_model else layout.ranks
    return _batches(np.array_split(np.arange(rows), sharers)[rank % sharers], batch)


def _batches(rows: np.ndarray, batch: int) -> list[np.ndarray]:
    return np.array_split(rows, math.ceil(len(rows) / batch))


def _rows(loader: DataLoader[Any]) -> int:
    return len(loader.dataset)  # type: ignore[arg-type]


def build(trial: Trial, rank: int) -> tuple[LightningDataModule, Algorithm]:
    """The data and the algorithm of a trial, the same on every rank but for its random streams."""
    data = trial.workload.data.build()
    data.setup("fit")
    replica = 0 if trial.algorithm_class.one_model else trial.layout.replica_of(rank)
    torch.manual_seed(stream(trial.seed, "initialisation", replica))
    task = trial.workload.build_task(data)
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
        ValueError: the trial's layout does not fit the world.
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Batches are cut from memory, so loader processes would only cost; the torchmetrics that are
    # logged have been reduced over the ranks already.
    warnings.filterwarnings("ignore", ".*(does not have many workers|sync_dist=True).*")
    torch.set_num_threads(trial.threads)
    os.environ["OMP_NUM_THREADS"] = str(trial.threads)  # else Lightning takes all cores again
    rank, layout = int(os.environ["RANK"]), trial.layout
    # First of all: a rank without a place would fail on its own, and the others wait for it.
    layout.check_fits(int(os.environ["WORLD_SIZE"]))
    data, algorithm = build(trial, rank)
    training, validation = data.train_dataloader(), data.val_dataloader()
    steps, every = schedule(trial, _rows(training))
    evaluation_batch = getattr(data, "evaluation_batch", EVALUATION_BATCH)
    parts = partition(trial, algorithm, training, evaluation_batch)
    examples = [len(part) for part in parts]
    algorithm.data_share = examples[layout.replica_of(rank)] / sum(examples)
    seen_by_all = trial.workers if trial.partition.kind == "iid" else layout.ranks
    algorithm.epoch_steps = fmean(examples) / (trial.batch_size * seen_by_all)
    batches = training_batches(trial, algorithm, parts[layout.replica_of(rank)], rank, every)
    evaluated = validation_batches(_rows(validation), algorithm, layout, rank, evaluation_batch)
    if trial.accelerator == "cpu":
        keep_off_gpus()
    backend = DeepSpeedBackend(layout, trial.zero_stage)
    first = np.arange(min(_rows(validation), PREDICTED_ROWS))
    to_predict = with_batches(validation, _batches(first, evaluation_batch))
    meter = Meter(backend, trial.batch_size, to_predict, report)
    trainer = Trainer(
        accelerator=trial.accelerator,
        devices=trial.workers,
        strategy=backend,
        max_epochs=steps // every,
        num_sanity_val_steps=0,
        callbacks=[FaultInjector(trial.fault), meter, Continue(batches), *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    report("progress", {"step": 0, "steps": steps})
    trainer.fit(
        algorithm,
        with_batches(training, batches),
        with_batches(validation, evaluated),
        ckpt_path=checkpoint,
    )
    clock, ledger = backend.clock, backend.ledger
    result = {
        "device": clock.device.type,
        "steps": trainer.global_step,
        "replicas": layout.replicas,
        "phases": clock.seconds,
        "send_seconds": ledger.seconds["train"] + ledger.seconds["exchange"],
        "compute_seconds": meter.compute_seconds,
        "ledger": ledger.rows(),
        "expected_bytes_per_worker": algorithm.expected_bytes(
            layout, trial.zero_stage, trainer.global_step
        ),
        "parameters": algorithm.model_bytes // 4,
        "weights_sha256": meter.weights_sha256,
        "algorithm": algorithm.record(),
        "predictions": meter.predictions if rank == 0 else {},
    }
    # A rank that leaves while its peers still talk to it makes them abort.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return result
