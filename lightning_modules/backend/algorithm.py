"""The base of every algorithm: a LightningModule around a task."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import engine_bytes
from paceline.lightning_modules.backend.precision import in_dtype_of
from paceline.lightning_modules.backend.private import QuickHooks
from paceline.lightning_modules.backend.search import Dimension
from paceline.lightning_modules.backend.state import State, tensors, trained
from paceline.lightning_modules.backend.task import Task, loss_weight, make_optimizer

if TYPE_CHECKING:
    from paceline.lightning_modules.backend.strategy import DeepSpeedBackend


NO_SAMPLES = "samples in targets"


class Undefined(RuntimeError):
    """The validation loss or metric is undefined, although the training loss is a number."""


class Algorithm(QuickHooks, LightningModule):
    """The base class of all distributed training algorithms.

    A subclass defines three things: how the ranks are divided into replicas (`layout`), what a replica
    minimises in addition to the loss of the task (`added_loss`), and what the replicas exchange
    (`exchange`). Each subclass is one file in `lightning_modules/`. Its hyper-parameters are the
    arguments of its constructor after `task`. They need types and defaults.

    Attributes:
        name: the name of the algorithm in a benchmark's YAML.
        title: the name of the algorithm in the report.
        search_space: the dimension of each hyper-parameter that a sweep tunes. The other
            hyper-parameters keep their values.
        asynchronous: if True, the ranks do not wait for each other between two evaluations.
        one_model: if True, all replicas start with the same weights and are evaluated as one model.
            If False, each replica starts with its own weights and is evaluated alone, on all validation
            examples. Figures are then means over the replicas.
        zero_stages: the stages of ZeRO that the algorithm supports.
        rehearsal: the largest values of hyper-parameters in a rehearsal, which has two steps and should
            have an exchange after each. None replaces any value.
        exchanges: the number of exchanges that this rank has taken part in.
        data_share: the number of examples of this replica, divided by the number of examples of all
            replicas. The code that starts the training sets it.
        lr_factor: the factor by which the learning rates of the task are multiplied. The code that starts
            the training sets it.
        epoch_steps: the number of steps in which a replica with an average share sees each of its
            examples once. The code that starts the training sets it.
        validation_rows: the row numbers of each batch that this rank evaluates. The code that starts the
            training sets them.
        not_finite: the first row whose loss was not finite at the current evaluation, or infinity if
            every loss was finite.
        best_loss: the lowest validation loss so far.
        test_batches: the batches of the test part that this rank evaluates. The code that starts the
            training sets them.
        tested: `test_loss` and `test_metric` of the model that had the lowest validation loss.

    Args:
        task: the model with its loss, its metric and its optimizer.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    search_space: ClassVar[dict[str, Dimension]] = {}
    asynchronous: ClassVar[bool] = False
    one_model: ClassVar[bool] = True
    rehearsal: ClassVar[dict[str, int | None]] = {}
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2)  # under ZeRO 3, no rank holds all parameters

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.evaluation = nn.ModuleDict()
        self._add_evaluation("validation")
        self.testing = nn.ModuleDict(self._metrics("test"))
        self.exchanges = 0
        self.data_share = 1.0
        self.lr_factor = 1.0
        self.epoch_steps = 1.0
        self.validation_rows: Sequence[Sequence[int]] = ()
        self.not_finite = self.best_loss = math.inf
        self.test_batches: Iterable[Any] = ()
        self.tested: dict[str, float] = {}

    @classmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        """Returns how `workers` ranks are divided into replicas, given the hyper-parameters.

        By default, a replica has `ranks_per_replica` ranks. If the algorithm has no hyper-parameter of
        that name, every rank is its own replica.

        Raises:
            ValueError: the algorithm does not run on this number of workers.
        """
        return Layout.of_replicas(workers, hyper_parameters.get("ranks_per_replica", 1))

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Returns the bytes that a worker sends in `steps` training steps, computed from the algorithm.

        The base class counts the bytes that the engine sends inside a replica. A subclass adds the bytes
        of its exchanges.

        Args:
            layout: the layout of the ranks.
            zero_stage: the stage of ZeRO inside a replica.
            steps: the number of optimizer steps of a rank, as a mean over the ranks.
        """
        backend = torch.distributed.get_backend()
        return engine_bytes(self.model_bytes, layout.ranks, zero_stage, backend) * steps

    @property
    def parameter_count(self) -> int:
        """The number of trained scalars."""
        return sum(getattr(p, "ds_numel", p.numel()) for p in trained(self.task))

    @property
    def model_bytes(self) -> int:
        """The size of the trained parameters in bytes."""
        return sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in trained(self.task))

    @property
    def state_bytes(self) -> int:
        """The size in bytes of the trained parameters and the floating-point buffers.

        These are what replicas exchange.
        """
        return self.model_bytes + sum(buffer.nbytes for buffer in tensors(self.task, "buffers"))

    @property
    def backend(self) -> "DeepSpeedBackend":
        """The strategy that trains this module. It is available after training has started."""
        return cast("DeepSpeedBackend", self.trainer.strategy)

    def exchange(self, step: int) -> None:
        """Exchanges data with the other replicas. It is called after every optimizer step of this rank.

        Args:
            step: the number of optimizer steps that this rank has taken, at least 1.
        """

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        # The exchange is part of the step and not a hook after it. So no checkpoint can be written
        # between the two.
        super().optimizer_step(*arguments, **options)
        with self.backend.exchanging():
            self.exchange(self.trainer.global_step + 1)

    def mean_over_replicas(self, state: State) -> State:
        """Returns the mean of `state` over the replicas, weighted by their numbers of examples."""
        return (self.data_share * state).map(self.backend.sum_over_replicas)

    def evaluated_state(self) -> State | None:
        """Returns the state to evaluate, the same on every rank, or None if the model already holds it.

        All ranks call it at the same time, so it may communicate. The clock does not count it.
        """
        return None

    def predictions(self, batch: Any) -> dict[str, Tensor]:
        """Returns the predictions for a batch, by the name of the model that makes them.

        They are the predictions that would be served to users. Each tensor has one row per example.
        """
        return {"model": self.task.probabilities(self.task(batch))}

    def figures(self) -> dict[str, float]:
        """Returns figures that describe the algorithm on this rank at an evaluation, by name.

        All ranks return the same names. The mean over the ranks is added to the curve.
        """
        return {}

    def record(self) -> dict[str, Any]:
        """Returns what this rank adds to the record of the trial when the trial has ended."""
        return {}

    def tickets(self, rank: int, draw: Callable[[], int]) -> Callable[[], int]:
        """Returns the function with which a rank of an asynchronous algorithm draws its batch tickets."""
        return draw

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.task, trained(self.task), self.lr_factor)

    def training_step(self, batch: Any, _: int) -> dict[str, Tensor]:
        logits = self.task(batch)
        loss = self.task.loss(logits, self.task.labels(batch))
        return {"loss": loss + self.added_loss(batch, logits), "task_loss": loss.detach()}

    def added_loss(self, batch: Any, logits: Tensor) -> Tensor | float:
        """Returns what a replica minimises in addition to the loss of the task, on the same batch."""
        return 0.0

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

    def on_validation_start(self) -> None:
        self.not_finite = math.inf
        self._evaluating = self.as_evaluated()
        self._evaluating.__enter__()

    def validation_step(self, batch: Any, index: int) -> None:
        self._evaluate("validation", self.task(batch), self.task.labels(batch), index)

    def on_validation_epoch_end(self) -> None:
        found = self._computed(self.evaluation)
        self.log_dict(found)
        if found["validation_loss"] < self.best_loss:
            self.best_loss = found["validation_loss"].item()
            self._test()
        self._evaluating.__exit__(None, None, None)

    def _test(self) -> None:
        """Evaluates the test part. What comes out is only recorded and decides nothing.

        It is evaluated whenever the validation loss improves, because the best model is not kept.
        """
        for batch in self.test_batches:
            batch = in_dtype_of(self.task, self.backend.batch_to_device(batch))
            self._update(self.testing, "test", self.task(batch), self.task.labels(batch))
        if self.test_batches:
            self.tested = {n: value.item() for n, value in self._computed(self.testing).items()}

    def _computed(self, metrics: nn.ModuleDict) -> dict[str, Tensor]:
        """Returns the value of each metric over all ranks, and resets the metrics."""
        found = {}
        for name, metric in metrics.items():
            value = self._value(name, cast(Metric, metric))
            found[name] = value if self.one_model else self.backend.mean_over_ranks(value)
            cast(Metric, metric).reset()
        return found

    def _value(self, name: str, metric: Metric) -> Tensor:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value: Tensor = metric.compute()
        # If all labels are of one class, torchmetrics returns zero, and warns on rank 0 only.
        text = next((str(w.message) for w in caught if NO_SAMPLES in str(w.message)), "")
        if text and value == 0 and name in self.testing:
            return torch.full_like(value, math.nan)
        if text and value == 0:
            raise Undefined(f"{name.replace('_', ' ')} is undefined: {text.partition(',')[0]}")
        return value

    def on_fit_start(self) -> None:
        if not self.one_model:
            for metric in (*self.evaluation.values(), *self.testing.values()):
                cast(Metric, metric).process_group = self.backend.groups.replica

    def _add_evaluation(self, what: str) -> None:
        self.evaluation.update(self._metrics(what))

    def _metrics(self, what: str) -> dict[str, Metric]:
        # By default, torchmetrics leaves NaN out of the mean. Its strategy "disable" ignores weights.
        loss = MeanMetric(nan_strategy=math.nan)
        return {f"{what}_loss": loss, f"{what}_metric": self.task.metric()}

    def _evaluate(self, what: str, logits: Tensor, labels: Tensor, index: int) -> None:
        loss = self._update(self.evaluation, what, logits, labels)
        if not loss.isfinite():
            rows = [slice(i, i + 1) for i in range(len(labels))]
            wrong = (
                i
                for i, row in enumerate(rows)
                if loss_weight(self.task, labels[row])
                and not self.task.loss(logits[row], labels[row]).isfinite()
            )
            place = next(wrong, 0)
            self.not_finite = min(self.not_finite, int(self.validation_rows[index][place]))

    def _update(self, metrics: nn.ModuleDict, what: str, logits: Tensor, labels: Tensor) -> Tensor:
        """Adds a batch to the metrics of `what` and returns its loss."""
        weight = loss_weight(self.task, labels)
        # The mean over nothing is not a number, and it has no part in the mean over all.
        loss = self.task.loss(logits, labels) if weight else logits.new_zeros(())
        cast(Metric, metrics[f"{what}_loss"]).update(loss, weight=weight)
        cast(Metric, metrics[f"{what}_metric"]).update(self.task.probabilities(logits), labels)
        return loss
