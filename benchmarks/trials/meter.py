"""Controls the clock and the ledger of a rank during training, and reports the curve."""

import hashlib
import math
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.distributed
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.clock import Clock
from paceline.lightning_modules.backend.evaluation import Undefined
from paceline.lightning_modules.backend.phases import TRAINING
from paceline.lightning_modules.backend.precision import in_dtype_of
from paceline.lightning_modules.backend.strategy import DeepSpeedBackend

LOSSES = 256  # summed at once, because one sum costs as much as all other measuring in a step
SHOW_S = 0.25  # seconds between two reports of progress
# The most rows and values of the predictions on the first validation rows. They are stored with the trial
# so that retrains can be compared.
PREDICTED_ROWS, PREDICTED_VALUES = 10_000, 2_000_000
Report = Callable[[str, Any], None]


class Diverged(RuntimeError):
    """The training loss is not finite."""


class Meter(Callback):
    """Sets the phases of the clock and the ledger, and reports the curve."""

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
        self.points: list[dict[str, float]] = []
        self.resumed_at: list[int] = []

    @property
    def clock(self) -> Clock:
        return self.backend.clock

    @property
    def compute_seconds(self) -> float:
        """Training time of this rank in seconds without sending. The model of a link adds to it."""
        if self.clock.device.type == "cpu":
            return self.clock.cpu_seconds  # also right if ranks share a core
        return self.clock.total - self.ledger.training_seconds

    def on_train_epoch_start(self, trainer: Trainer, algorithm: LightningModule) -> None:
        # An epoch of Lightning is the training between two evaluations.
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
        if time.monotonic() - self.reported > SHOW_S:
            loss = outputs["task_loss"].item()
            if not math.isfinite(loss):
                raise Diverged(f"the training loss is {loss} at step {trainer.global_step}")
            self._show(trainer.global_step, loss)
        self.clock.enter("data")

    def _show(self, step: int, loss: float | None = None) -> None:
        self.reported = time.monotonic()
        self.report("progress", {"step": step, "train_loss": loss})

    def _add_losses(self) -> None:
        if self.losses:
            self.loss_sum += torch.stack(self.losses).sum().item()
            self.losses.clear()

    def on_validation_start(self, trainer: Trainer, algorithm: LightningModule) -> None:
        self.clock.stop()
        self._add_losses()
        self.ledger.phase = "evaluation"

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() - self.reported > SHOW_S:
            self._show(trainer.global_step)

    def on_validation_end(self, trainer: Trainer, algorithm: LightningModule) -> None:
        messages, wire = self.ledger.sent(*TRAINING)
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
        # Ranks that do not wait for each other take different numbers of steps.
        step = round(all_steps / trainer.world_size)
        loss /= max(steps, 1)
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} at step {step}")
        measured = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self._check(measured, cast(Algorithm, algorithm).not_finite)
        point = {
            "step": step,
            "examples": all_steps * self.batch_size,
            "train_seconds": seconds,
            "compute_seconds": compute_seconds,
            "bytes_sent_per_worker": sent,
            "messages_per_worker": sent_messages,
            "train_loss": loss,
            **measured,
            **dict(zip(figures, means, strict=True)),
        }
        self.points.append(point)
        self.report("point", point)

    def on_save_checkpoint(
        self, trainer: Trainer, algorithm: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["measured"] = {
            "clock": self.clock.state(),
            "ledger": self.ledger.state(),
            "algorithm": cast(Algorithm, algorithm).measured(),
            "points": self.points,
            "resumed_at": self.resumed_at,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, algorithm: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        measured = checkpoint["measured"]
        self.clock.load(measured["clock"])
        self.ledger.load(measured["ledger"])
        cast(Algorithm, algorithm).load_measured(measured["algorithm"])
        self.resumed_at = [*measured["resumed_at"], checkpoint["global_step"]]
        self.points = measured["points"]
        for point in self.points:  # the parent may be another process than before
            self.report("point", point)

    def _check(self, measured: dict[str, float], not_finite: float) -> None:
        """Checks that every figure of this evaluation is finite.

        Raises:
            Undefined: on every rank, if a figure is not finite.
        """
        (row,) = self._over_ranks(torch.distributed.ReduceOp.MIN, not_finite)
        for name, value in measured.items():
            if math.isfinite(value):
                continue
            where = f" at row {row:.0f} of the validation examples" if row < math.inf else ""
            shown = "NaN" if math.isnan(value) else value
            raise Undefined(f"{name.replace('_', ' ')} is {shown}{where}")

    def on_train_end(self, trainer: Trainer, algorithm: LightningModule) -> None:
        self.clock.stop()
        self.ledger.phase = "end"
        algorithm = cast(Algorithm, algorithm)
        with algorithm.as_evaluated():
            self.weights_sha256 = self._digest(algorithm)
            self.predictions = self._predict(algorithm)

    def _digest(self, algorithm: Algorithm) -> str:
        """Returns the SHA-256 of the evaluated model in hexadecimal.

        If the replicas are evaluated separately, it is the hash of the digests of all ranks.
        """
        own = self.backend.digest()
        if algorithm.one_model or self.backend.layout.replicas == 1:
            return own.hex()
        digests: list[Any] = [None] * self.backend.world_size
        torch.distributed.all_gather_object(digests, own)
        return hashlib.sha256(b"".join(digests)).hexdigest()

    @torch.no_grad()
    def _predict(self, algorithm: Algorithm) -> dict[str, np.ndarray]:
        """Returns predictions by the name of the model, on as many rows as `PREDICTED_VALUES` allow."""
        algorithm.eval()
        parts: dict[str, list[np.ndarray]] = {}
        room = 1
        for batch in self.to_predict:
            if not room:
                break
            batch = in_dtype_of(algorithm.task, self.backend.batch_to_device(batch))
            if not (found := algorithm.predictions(batch)):
                break
            for name, predicted in found.items():
                kept = parts.setdefault(name, [])
                a_row = predicted[0].numel()
                room = max(0, PREDICTED_VALUES // a_row - sum(map(len, kept)))
                kept.append(predicted[:room].float().cpu().numpy())
        shapes = {name: {array.shape[1:] for array in arrays} for name, arrays in parts.items()}
        # Predictions whose shapes depend on the batch, such as padded ones, cannot be compared.
        return {n: np.concatenate(arrays) for n, arrays in parts.items() if len(shapes[n]) == 1}

    def _over_ranks(self, operation: Any, *values: float) -> list[float]:
        # This calls torch and not DeepSpeed, because measuring is not part of the algorithm's traffic.
        tensor = torch.tensor(values, dtype=torch.float64, device=self.backend.root_device)
        torch.distributed.all_reduce(tensor, operation)
        return tensor.tolist()
