"""The work of one rank of a trial: it builds the data, the model and the algorithm, and trains."""

import logging
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.distributed
from pytorch_lightning import Callback, LightningDataModule, Trainer
from torch.utils.data import DataLoader

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.suitable import LOADERS, loader_of, test_loader
from paceline.benchmarks.trials.dealing import (
    EVALUATION_BATCH,
    Continue,
    SameRows,
    batches_of,
    partition,
    row_count,
    seen_of,
    stream,
    training_batches,
    validation_batches,
)
from paceline.benchmarks.trials.faults import FaultInjector
from paceline.benchmarks.trials.meter import PREDICTED_ROWS, Meter, Report
from paceline.datasets.batches import with_batches
from paceline.lightning_modules.backend import randomness
from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.precision import convert
from paceline.lightning_modules.backend.strategy import DeepSpeedBackend, devices_of, keep_off_gpus
from paceline.lightning_modules.backend.trainer_view import TrainerView
from paceline.lightning_modules.backend.wrapped import batch_hooks


@dataclass(frozen=True)
class Built:
    """The data and the algorithm of a rank. They differ between ranks only in their random streams.

    Attributes:
        seen: a hash that represents the validation rows of this rank.
    """

    data: LightningDataModule
    training: DataLoader[Any]
    validation: DataLoader[Any]
    test: DataLoader[Any] | None
    algorithm: Algorithm
    seen: str


def build(trial: Trial, rank: int) -> Built:
    """Builds the data and the algorithm of a trial. Each draws from its own random stream.

    The draws for the data are the same for all ranks and all seeds. The draws for the weights are the
    same for all replicas that train one model. Later draws, for dropout or augmentation, differ between
    ranks.
    """
    randomness.seed(randomness.OF_DATA)
    data = trial.workload.data.build()
    data.trainer = TrainerView()  # its hooks may ask for it
    data.setup("fit")
    training, validation = (loader_of(data, name) for name in LOADERS)
    seen, test = seen_of(validation), test_loader(data)
    replica = 0 if trial.algorithm_class.one_model else trial.layout.replica_of(rank)
    randomness.seed(stream(trial.seed, "initialisation", replica))
    task = trial.workload.build_task(data)
    convert(task, trial.precision)
    algorithm = trial.algorithm_class(task, **trial.hyper_parameters)
    algorithm.lr_factor = trial.lr_factor
    algorithm.mixed_precision = trial.precision == "bf16-mixed"
    algorithm.batch_hooks = batch_hooks(task, data)
    randomness.seed(stream(trial.seed, f"rank {rank}"))
    return Built(data, training, validation, test, algorithm, seen)


def run_rank(
    trial: Trial,
    report: Report,
    callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None,
    rows: int | None = None,
) -> dict[str, Any]:
    """Trains `trial` as one of its ranks and returns the figures of this rank.

    The number of the rank is read from the environment, as torchrun and the fork server set it.

    Args:
        trial: the trial to train.
        report: a function that sends a message to the parent.
        callbacks: additional callbacks for the trainer.
        checkpoint: the folder of a checkpoint from which training continues.
        rows: the number of validation examples and of test examples for each rank. By default, all are
            used.

    Raises:
        Diverged: if the training loss is not finite.
        ValueError: if the trial's layout does not fit the world.
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Batches come from memory, so loader processes would only add cost. The logged torchmetrics have been
    # reduced over the ranks already.
    warnings.filterwarnings("ignore", ".*(does not have many workers|sync_dist=True).*")
    torch.set_num_threads(trial.threads)
    os.environ["OMP_NUM_THREADS"] = str(trial.threads)  # otherwise Lightning uses all cores
    rank, layout = int(os.environ["RANK"]), trial.layout
    # Check this first. A rank without a place would fail on its own later, and the others would wait.
    layout.check_fits(int(os.environ["WORLD_SIZE"]))
    built = build(trial, rank)
    algorithm, training, validation = built.algorithm, built.training, built.validation
    budget = trial.workload.budget
    steps, every = budget.schedule(row_count(training), trial.batch_size * trial.workers)
    evaluation_batch = getattr(built.data, "evaluation_batch", EVALUATION_BATCH)
    parts = partition(trial, algorithm, training, evaluation_batch)
    examples = [len(part) for part in parts]
    algorithm.data_share = examples[layout.replica_of(rank)] / sum(examples)
    seen_by_all = trial.workers if trial.partition.kind == "iid" else layout.ranks
    algorithm.steps = steps
    algorithm.epoch_steps = fmean(examples) / (trial.batch_size * seen_by_all)
    batches = training_batches(trial, algorithm, parts[layout.replica_of(rank)], rank, every)

    def evaluated_by_rank(loader: DataLoader[Any]) -> list[list[int]]:
        count = row_count(loader) if rows is None else min(row_count(loader), rows * trial.workers)
        return validation_batches(count, algorithm, layout, rank, evaluation_batch)

    evaluated = evaluated_by_rank(validation)
    algorithm.validation_rows = evaluated
    if built.test is not None:
        algorithm.test_rows = evaluated_by_rank(built.test)
        algorithm.test_batches = with_batches(built.test, algorithm.test_rows)
    on_node = int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = 0 if trial.accelerator == "cpu" else torch.cuda.device_count()
    if not gpus:
        keep_off_gpus()
    devices = devices_of(on_node, gpus)
    backend = DeepSpeedBackend(layout, trial.zero_stage, trial.clip_norm, devices)
    first = np.arange(min(row_count(validation), PREDICTED_ROWS if rows is None else rows))
    to_predict = with_batches(validation, batches_of(first, evaluation_batch))
    meter = Meter(backend, trial.batch_size, to_predict, report)
    trainer = Trainer(
        accelerator=devices[0].type,
        devices=len(set(devices)) if gpus else on_node,  # Lightning counts a GPU once
        num_nodes=layout.world_size // on_node,
        strategy=backend,
        max_epochs=steps // every,
        accumulate_grad_batches=trial.accumulate,
        num_sanity_val_steps=0,
        callbacks=[
            SameRows(built.seen),
            FaultInjector(trial.fault),
            meter,
            Continue(batches, trial.accumulate),
            *callbacks,
        ],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    built.data.trainer = trainer  # its hooks may ask whether it is training
    report("progress", {"step": 0, "steps": steps})
    trainer.fit(
        algorithm,
        with_batches(training, batches, trial.accumulate),
        with_batches(validation, evaluated),
        ckpt_path=checkpoint,
    )
    clock, ledger = backend.clock, backend.ledger
    result = {
        "device": clock.device.type,
        "node": os.uname().nodename,
        "process_group": torch.distributed.get_backend(),
        "steps": trainer.global_step,
        "replicas": layout.replicas,
        "phases": clock.seconds,
        "send_seconds": ledger.training_seconds,
        "compute_seconds": meter.compute_seconds,
        "ledger": ledger.rows(),
        "expected_bytes_per_worker": algorithm.expected_bytes(
            layout, trial.zero_stage, trainer.global_step
        ),
        "process_seconds": time.process_time(),
        "parameters": algorithm.parameter_count,
        "weights_sha256": meter.weights_sha256,
        "tested": algorithm.tested,
        "resumed_at": meter.resumed_at,
        "algorithm": algorithm.record(),
        "predictions": meter.predictions if rank == 0 else {},
    }
    # A rank that leaves while its peers still communicate with it makes them abort.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return result
