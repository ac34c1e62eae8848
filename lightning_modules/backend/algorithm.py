"""The base of every algorithm: a LightningModule around a task."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import engine_bytes
from paceline.lightning_modules.backend.search import Dimension
from paceline.lightning_modules.backend.state import State, tensors, trained
from paceline.lightning_modules.backend.task import Task

if TYPE_CHECKING:
    from paceline.lightning_modules.backend.strategy import DeepSpeedBackend


NO_SAMPLES = "samples in targets"


class Undefined(RuntimeError):
    """The validation loss or metric is not a number, while the training loss is."""


class Algorithm(LightningModule):
    """Says how replicas are laid out, what loss a replica minimises and what an exchange does.

    A subclass is one file in `lightning_modules/`; the arguments of its constructor behind `task`,
    typed and with defaults, are its hyper-parameters.

    Attributes:
        name: what a benchmark's YAML calls it.
        title: what the report calls it.
        search_space: what a sweep draws, by hyper-parameter; the others keep their values.
        asynchronous: whether the ranks do not wait for one another between two evaluations.
        one_model: whether the replicas train one model, begin alike and are evaluated as one.
            Otherwise each begins with weights of its own and is evaluated alone, on all validation
            examples; figures are means over the replicas.
        zero_stages: the stages of ZeRO that it runs under.
        exchanges: how many exchanges this rank has taken part in.
        data_share: this replica's examples over those of all replicas; whoever trains sets it.
        epoch_steps: steps in which a replica with an average share sees its examples once; likewise.
        validation_rows: the numbers of the rows of each batch that this rank evaluates; likewise.
        not_finite: the first row whose loss was not finite at the evaluation at hand, infinity if none.

    Args:
        task: the model with its loss, its metric and its optimizer.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    search_space: ClassVar[dict[str, Dimension]] = {}
    asynchronous: ClassVar[bool] = False
    one_model: ClassVar[bool] = True
    zero_stages: ClassVar[tuple[int, ...]] = (0, 1, 2)  # under 3 no rank holds the parameters

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.evaluation = nn.ModuleDict()
        self._add_evaluation("validation")
        self.exchanges = 0
        self.data_share = 1.0
        self.epoch_steps = 1.0
        self.validation_rows: Sequence[Sequence[int]] = ()
        self.not_finite = math.inf

    @classmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        """How `workers` ranks are divided into replicas, given the hyper-parameters.

        Each has as many ranks as `ranks_per_replica` says, or one where there is no such hyper-parameter.

        Raises:
            ValueError: the algorithm does not run on that many.
        """
        return Layout.of_replicas(workers, hyper_parameters.get("ranks_per_replica", 1))

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Bytes that a worker has sent in `steps` steps of training, by the algorithm's own arithmetic.

        Here, what the engine sends inside a replica; an algorithm adds what it exchanges.

        Args:
            layout: of the ranks.
            zero_stage: the stage of ZeRO inside a replica.
            steps: optimizer steps of a rank, the mean over the ranks.
        """
        backend = torch.distributed.get_backend()
        return engine_bytes(self.model_bytes, layout.ranks, zero_stage, backend) * steps

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(getattr(p, "ds_numel", p.numel()) for p in trained(self.task))

    @property
    def model_bytes(self) -> int:
        """Bytes of the trained parameters."""
        return sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in trained(self.task))

    @property
    def state_bytes(self) -> int:
        """Bytes of what replicas exchange: the trained parameters and the floating-point buffers."""
        return self.model_bytes + sum(buffer.nbytes for buffer in tensors(self.task, "buffers"))

    @property
    def backend(self) -> "DeepSpeedBackend":
        """The strategy that trains this module, once training has started."""
        return cast("DeepSpeedBackend", self.trainer.strategy)

    def exchange(self, step: int) -> None:
        """What replicas tell each other after this rank's optimizer step `step`, counted from 1."""

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        # Part of the step, and not a hook after it, so that no checkpoint falls between the two.
        super().optimizer_step(*arguments, **options)
        with self.backend.exchanging():
            self.exchange(self.trainer.global_step + 1)

    def mean_over_replicas(self, state: State) -> State:
        """The mean of `state` over the replicas, weighted by their examples."""
        return (self.data_share * state).map(self.backend.sum_over_replicas)

    def evaluated_state(self) -> State | None:
        """What to evaluate, the same on every rank; None where each holds it already.

        Every rank calls it at once, off the clock, so it may communicate.
        """
        return None

    def predictions(self, batch: Any) -> dict[str, Tensor]:
        """What users would be served for a batch, one row an example, by the name of who serves it."""
        return {"model": self.task.probabilities(self.task(batch))}

    def figures(self) -> dict[str, float]:
        """What this rank knows of the state of the algorithm at an evaluation, by name.

        The names are the same on every rank; the mean over the ranks is added to the curve.
        """
        return {}

    def record(self) -> dict[str, Any]:
        """What of this rank goes into the record of the trial when it has ended."""
        return {}

    def tickets(self, rank: int, draw: Callable[[], int]) -> Callable[[], int]:
        """What a rank of an asynchronous algorithm draws its tickets for batches with."""
        return draw

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.task.configure_optimizer(trained(self.task))

    def training_step(self, batch: Any, _: int) -> dict[str, Tensor]:
        logits = self.task(batch)
        loss = self.task.loss(logits, self.task.labels(batch))
        return {"loss": loss + self.added_loss(batch, logits), "task_loss": loss.detach()}

    def added_loss(self, batch: Any, logits: Tensor) -> Tensor | float:
        """What a replica minimises beside the loss of the task, on the same batch."""
        return 0.0

    @contextmanager
    def as_evaluated(self) -> Iterator[None]:
        """Puts the model to evaluate in the place of the one that is trained on."""
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
        for name, metric in self.evaluation.items():
            value = self._computed(name, cast(Metric, metric))
            self.log(name, value if self.one_model else self.backend.mean_over_ranks(value))
            cast(Metric, metric).reset()
        self._evaluating.__exit__(None, None, None)

    def _computed(self, name: str, metric: Metric) -> Tensor:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value: Tensor = metric.compute()
        # torchmetrics gives zero, and this warning on rank 0, for curves of labels of one class.
        text = next((str(w.message) for w in caught if NO_SAMPLES in str(w.message)), "")
        if text and value == 0:
            raise Undefined(f"{name.replace('_', ' ')} is undefined: {text.partition(',')[0]}")
        return value

    def on_fit_start(self) -> None:
        if not self.one_model:
            for metric in self.evaluation.values():
                cast(Metric, metric).process_group = self.backend.groups.replica

    def _add_evaluation(self, what: str) -> None:
        # What is not a number must not be left out of the mean.
        self.evaluation[f"{what}_loss"] = MeanMetric(nan_strategy="disable")
        self.evaluation[f"{what}_metric"] = self.task.metric()

    def _evaluate(self, what: str, logits: Tensor, labels: Tensor, index: int) -> None:
        loss = self.task.loss(logits, labels)
        if not loss.isfinite():
            rows = (slice(i, i + 1) for i in range(len(labels)))
            losses = [self.task.loss(logits[row], labels[row]) for row in rows]
            place = next((i for i, own in enumerate(losses) if not own.isfinite()), 0)
            self.not_finite = min(self.not_finite, int(self.validation_rows[index][place]))
        cast(Metric, self.evaluation[f"{what}_loss"]).update(loss, weight=len(labels))
        metric = cast(Metric, self.evaluation[f"{what}_metric"])
        metric.update(self.task.probabilities(logits), labels)
