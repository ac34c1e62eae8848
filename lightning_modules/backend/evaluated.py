"""A LightningModule that evaluates a task. It is the base of every algorithm."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from paceline.lightning_modules.backend.evaluation import Evaluation, Logged
from paceline.lightning_modules.backend.precision import in_dtype_of
from paceline.lightning_modules.backend.private import QuickHooks
from paceline.lightning_modules.backend.state import State
from paceline.lightning_modules.backend.task import Task, loss_weight
from paceline.lightning_modules.backend.wrapped import LossOnly, WrappedModule, row_of

if TYPE_CHECKING:
    from paceline.lightning_modules.backend.strategy import DeepSpeedBackend


class Evaluated(QuickHooks, LightningModule):
    """A LightningModule around a task, which can be evaluated.

    Attributes:
        one_model: if True, all replicas start with the same weights and are evaluated as one model.
            If False, each replica starts with its own weights and is evaluated alone, on all validation
            examples. Figures are then means over the replicas.
        mixed_precision: if True, the forward pass is computed in bfloat16 where torch's autocast does so.
            The code that starts the training sets it.
        evaluations: what is evaluated on the validation examples, by name.
        validation_rows: the row numbers of each batch that this rank evaluates. The code that starts the
            training sets them.
        not_finite: the first row whose loss was not finite at the current evaluation, or infinity if
            every loss was finite.
        best_loss: the lowest validation loss so far.
        test_batches: the batches of the test part that this rank evaluates. The code that starts the
            training sets them.
        test_rows: the row numbers of each of these batches.
        tested: `test_loss` and `test_metric` of the model that had the lowest validation loss.

    Args:
        task: the model with its loss, its metric and its optimizer.
    """

    one_model: ClassVar[bool] = True

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.mixed_precision = False
        self.evaluations = nn.ModuleDict({"validation": self._new_evaluation("validation")})
        self.testing = self._new_evaluation("test")
        self.validation_rows: Sequence[Sequence[int]] = ()
        self.not_finite = self.best_loss = math.inf
        self.test_batches: Iterable[Any] = ()
        self.test_rows: Sequence[Sequence[int]] = ()
        self.tested: dict[str, float] = {}

    @property
    def backend(self) -> "DeepSpeedBackend":
        """The strategy that trains this module. It is available after training has started."""
        return cast("DeepSpeedBackend", self.trainer.strategy)

    def evaluated_state(self) -> State | None:
        """Returns the state to evaluate, the same on every rank, or None if the model already holds it.

        All ranks call it at the same time, so it may communicate. The clock does not count it.
        """
        return None

    def autocast(self) -> AbstractContextManager[Any]:
        """Computes the block in mixed precision if that was chosen."""
        if not self.mixed_precision:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def logits(self, model: Task, batch: Any) -> Tensor:
        """Returns the logits of a model for a batch. In mixed precision, they become float32."""
        with self.autocast():
            logits: Tensor = model(batch)
        return logits.float() if self.mixed_precision else logits

    def training_loss(self, batch: Any, index: int) -> tuple[Tensor, Tensor]:
        """Returns the loss of the task for a batch, and the logits.

        If the task tells no logits, the loss stands for them.
        """
        if isinstance(self.task, LossOnly):
            with self.autocast():
                loss = self.task.training_loss(batch, index)
            return loss, loss.detach()
        logits = self.logits(self.task, batch)
        return self.task.loss(logits, self.task.labels(batch)), logits

    def predictions(self, batch: Any) -> dict[str, Tensor]:
        """Returns the predictions for a batch, by the name of the model that makes them.

        They are the predictions that would be served to users. Each tensor has one row per example.
        """
        if isinstance(self.task, LossOnly):
            with self.autocast():
                return self.task.predictions(batch)
        return {"model": self.task.probabilities(self.logits(self.task, batch))}

    @contextmanager
    def as_evaluated(self) -> Iterator[None]:
        """Replaces the trained model with the model to evaluate, until the block ends."""
        evaluated = self.evaluated_state()
        own = None if evaluated is None else self.backend.state()
        if evaluated is not None:
            self.backend.load(evaluated)
        with self.backend.one_set_of_buffers(self.one_model):
            yield
        if own is not None:
            self.backend.load(own)

    def on_fit_start(self) -> None:
        if isinstance(self.task, WrappedModule):
            self.task.trained_by(self.trainer)
        if not self.one_model:
            for evaluation in (*self.evaluations.values(), self.testing):
                cast(Evaluation, evaluation).shared_by(self.backend.groups.replica)

    def on_validation_start(self) -> None:
        self.not_finite = math.inf
        if isinstance(self.task, LossOnly):
            self.task.begin_evaluation()
        self._evaluating = self.as_evaluated()
        self._evaluating.__enter__()

    def validation_step(self, batch: Any, index: int) -> None:
        if not isinstance(self.task, LossOnly):
            self.evaluate("validation", self.logits(self.task, batch), batch, index)
            return
        rows = len(self.validation_rows[index])
        logged = self._logged("validation", batch, index, rows)
        self._evaluation_of("validation").add(logged)
        if not logged.loss.isfinite():
            pieces = (row_of(batch, rows, place) for place in range(rows))
            losses = (self._logged("validation", piece, index, 1).loss for piece in pieces)
            self._note_not_finite(index, losses)

    def evaluate(self, what: str, logits: Tensor, batch: Any, index: int) -> None:
        """Adds the logits for a batch of validation examples to the evaluation `what`."""
        labels = self.task.labels(batch)
        logged = self._scored(self._evaluation_of(what), logits, labels)
        if not logged.loss.isfinite():
            rows = [slice(i, i + 1) for i in range(len(labels))]
            losses = (self._loss(logits[row], labels[row])[0] for row in rows)
            self._note_not_finite(index, losses)

    def on_validation_epoch_end(self) -> None:
        found: dict[str, Tensor] = {}
        for evaluation in self.evaluations.values():
            found |= self._computed(cast(Evaluation, evaluation))
        self.log_dict(found)
        if found["validation_loss"] < self.best_loss:
            self.best_loss = found["validation_loss"].item()
            self._test()
        self._evaluating.__exit__(None, None, None)

    def _test(self) -> None:
        """Evaluates the test part. What comes out is only recorded and decides nothing.

        It is evaluated whenever the validation loss improves, because the best model is not kept.
        """
        if isinstance(self.task, LossOnly):
            if not self.task.tests:
                return
            self.task.begin_evaluation()
        for index, batch in enumerate(self.test_batches):
            batch = in_dtype_of(self.task, self.backend.batch_to_device(batch))
            if isinstance(self.task, LossOnly):
                rows = len(self.test_rows[index])
                self.testing.add(self._logged("test", batch, index, rows))
            else:
                self._scored(self.testing, self.logits(self.task, batch), self.task.labels(batch))
        if self.test_batches:
            self.tested = {n: value.item() for n, value in self._computed(self.testing).items()}

    def _computed(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Returns the figures of an evaluation, or their means over replicas that are evaluated alone."""
        found = evaluation.computed()
        if self.one_model:
            return found
        return {name: self.backend.mean_over_ranks(value) for name, value in found.items()}

    def _new_evaluation(self, what: str) -> Evaluation:
        return Evaluation(what, None if isinstance(self.task, LossOnly) else self.task.metric())

    def _evaluation_of(self, what: str) -> Evaluation:
        return cast(Evaluation, self.evaluations[what])

    def _logged(self, what: str, batch: Any, index: int, rows: int) -> Logged:
        with self.autocast():
            return cast(LossOnly, self.task).logged(what, batch, index, rows)

    def _scored(self, evaluation: Evaluation, logits: Tensor, labels: Tensor) -> Logged:
        """Adds the logits for a batch to an evaluation."""
        loss, weight = self._loss(logits, labels)
        metric = cast(Metric, evaluation.metrics[0])
        metric.update(self.task.probabilities(logits), labels)
        logged = Logged(loss, weight, metric)
        evaluation.add(logged)
        return logged

    def _loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Returns the loss of some rows and its weight in the mean over all rows."""
        weight = loss_weight(self.task, labels)
        # The mean over nothing is not a number, and it has no part in the mean over all.
        return (self.task.loss(logits, labels) if weight else logits.new_zeros(())), weight

    def _note_not_finite(self, index: int, losses: Iterator[Tensor]) -> None:
        """Notes the first row of a batch of validation examples whose loss is not finite."""
        place = next((i for i, loss in enumerate(losses) if not loss.isfinite()), 0)
        self.not_finite = min(self.not_finite, int(self.validation_rows[index][place]))
