"""Distributes the examples among the ranks: the number of steps, the rows of each rank, their order."""

import hashlib
import math
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from paceline.benchmarks.spec.benchmark import Trial
from paceline.datasets.batches import BatchOrder, BatchStream, TicketStream, with_batches
from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.private import rendezvous_store
from paceline.lightning_modules.backend.state import as_bytes

SEEN_ROWS = 16  # validation examples that are compared between the ranks
EVALUATION_BATCH = 8192  # rows; a data module can set its own `evaluation_batch`


def stream(seed: int, name: str, replica: int = 0) -> int:
    """Returns the seed of the random stream `name`, for example `order` or `initialisation`.

    Each stream has its own seed. Replica 0 has the seed of a trial without replicas.
    """
    name = f"{name} {replica}" if replica else name
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")


def seen_of(loader: DataLoader[Any]) -> str:
    """Returns a hash of the number of examples of a loader and of a few evenly spaced examples."""
    rows = row_count(loader)
    found = hashlib.sha256(str(rows).encode())
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, SEEN_ROWS)).astype(int))
    for batch in with_batches(loader, [chosen] if rows else []):
        apply_to_collection(
            batch, Tensor, lambda tensor: found.update(as_bytes(tensor).numpy().data)
        )
    return found.hexdigest()


class SameRows(Callback):
    """Checks that all ranks have the same validation examples. If not, raises an error on every rank.

    Args:
        seen: the result of `seen_of` on this rank.
    """

    def __init__(self, seen: str) -> None:
        self.seen = seen

    def on_fit_start(self, trainer: Trainer, algorithm: LightningModule) -> None:
        seen: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(seen, self.seen)
        if other := next((rank for rank, own in enumerate(seen) if own != seen[0]), None):
            raise ValueError(
                f"rank {other} has other validation examples than rank 0: what the data draw has to come"
                " from `random`, `numpy.random` or torch, which are seeded, or from a seed of its own"
            )


class Continue(Callback):
    """Begins the stream of batches, at the step of the checkpoint when training is resumed.

    Args:
        batches: the stream of batches of this rank.
        parts: the number of parts in which each batch is loaded.
    """

    def __init__(self, batches: BatchStream, parts: int) -> None:
        self.batches, self.parts = batches, parts

    def on_train_start(self, *_: Any) -> None:
        self.batches.begin()  # a barrier follows

    def on_load_checkpoint(
        self, trainer: Trainer, algorithm: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loop = checkpoint["loops"]["fit_loop"]
        part = loop["epoch_loop.batch_progress"]["total"]["ready"]
        segment = self.batches.go_on(part // self.parts, checkpoint["epoch"])
        # Lightning cannot start within an epoch, so this tells it that a new epoch begins.
        for name, total, current in (
            ("epoch_progress", segment, segment),
            ("epoch_loop.batch_progress", part, 0),
        ):
            loop[name]["total"] = dict.fromkeys(loop[name]["total"], total)
            loop[name]["current"] = dict.fromkeys(loop[name]["current"], current)
        loop["epoch_loop.batch_progress"]["is_last_batch"] = False


def training_batches(
    trial: Trial, algorithm: Algorithm, part: np.ndarray, rank: int, every: int
) -> BatchStream:
    """Returns the stream of training batches of one rank. Its replica trains on the rows `part`."""
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


def _ticket(first: int) -> int:
    # The parent holds the rendezvous store, so no rank has to answer another.
    return first + int(rendezvous_store().add("paceline/ticket", 1)) - 1


def partition(
    trial: Trial, algorithm: Algorithm, loader: DataLoader[Any], batch: int = EVALUATION_BATCH
) -> list[np.ndarray]:
    """Returns the training rows of each replica. Labels are read `batch` rows at a time."""
    rows = row_count(loader)
    labels = None
    if trial.partition.needs_labels:
        batches = with_batches(loader, batches_of(np.arange(rows), batch))
        labels = np.concatenate([algorithm.task.labels(batch).numpy() for batch in batches])
    seed = stream(trial.seed, "partition")
    return trial.partition.parts(rows, trial.layout.replicas, seed, labels)


def validation_batches(
    rows: int, algorithm: Algorithm, layout: Layout, rank: int, batch: int = EVALUATION_BATCH
) -> list[Any]:
    """Returns one rank's part of the validation rows, in batches.

    If all ranks train one model, they share the rows. Otherwise the ranks of each replica share them.
    """
    sharers = layout.world_size if algorithm.one_model else layout.ranks
    parts = np.array_split(np.arange(rows), sharers)
    # All ranks have equally many batches, because a metric may communicate in each of them.
    count = min(math.ceil(len(parts[0]) / batch), len(parts[-1]))
    return np.array_split(parts[rank % sharers], count)


def batches_of(rows: np.ndarray, batch: int) -> list[np.ndarray]:
    return np.array_split(rows, math.ceil(len(rows) / batch))


def row_count(loader: DataLoader[Any]) -> int:
    return len(loader.dataset)  # type: ignore[arg-type]
