"""Tries a task on a few examples before any rank starts. An error is one line."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.optimizing import check_optimized, check_under_zero
from paceline.benchmarks.spec.plugin import ConfigError, Plugin
from paceline.datasets.batches import with_batches
from paceline.datasets.reading.cache import DataError
from paceline.lightning_modules.backend.precision import convert, in_dtype_of
from paceline.lightning_modules.backend.schedule import Schedule
from paceline.lightning_modules.backend.state import trained
from paceline.lightning_modules.backend.task import loss_weight
from paceline.lightning_modules.backend.trainer_view import TrainerView
from paceline.lightning_modules.backend.wrapped import LossOnly, bare, batch_hooks

LOOKED_AT = 16  # validation examples on which the weights of the loss are checked


def tried(
    trials: Sequence[Trial], data: LightningDataModule, loader: DataLoader[Any], rows: int
) -> Any:
    """Passes a few validation examples through the task of trials and returns the task.

    Args:
        trials: trials on one workload.
        data: the data module, which has been set up.
        loader: the loader of its validation examples.
        rows: the number of training examples.

    Raises:
        ConfigError: if a method of the task raises an error or returns what cannot be used.
    """
    workload, trial = trials[0].workload, trials[0]
    plugin = workload.task
    with called(plugin, "building it"):
        task = workload.build_task(data).eval()
    _check_dtype(plugin, task, trial.precision)
    convert(task, trial.precision)
    own = bare(task)
    call = "configure_optimizer(parameters)" if own is task else "configure_optimizers()"
    step_examples = trial.batch_size * trial.workers
    steps, _ = workload.budget.schedule(rows, step_examples)
    with called(plugin, call):
        optimizer: Any = Schedule.of(task, trained(task), steps, rows / step_examples).optimizer
    check_optimized(plugin, own, optimizer, call)
    data.trainer = TrainerView()  # type: ignore[assignment]  # its hooks may ask for it
    with called(workload.data, "reading validation examples"):
        count = len(loader.dataset)  # type: ignore[arg-type]
        spread = list(range(0, count, max(1, count // LOOKED_AT)))[:LOOKED_AT]
        # Pairs and not single rows, because many modules squeeze a batch of one.
        pairs = [spread[i : i + 2] for i in range(0, len(spread), 2)]
        chosen = [spread[:2], spread, *(pairs if isinstance(task, LossOnly) else ())]
        two, more, *parts = [_moved(task, data, batch) for batch in with_batches(loader, chosen)]
    if isinstance(task, LossOnly):
        _try_steps(plugin, task, more, list(zip(parts, map(len, pairs), strict=True)))
    else:
        _try_logits(plugin, task, two, more)
    if stages := {trial.zero_stage for trial in trials} - {0}:
        with called(plugin, call):
            check_under_zero(plugin, task, min(stages), steps, rows / step_examples)
    return task


def _moved(task: nn.Module, data: LightningDataModule, batch: Any) -> Any:
    """Returns a batch as the task gets it in training, but on the CPU."""
    before, after = batch_hooks(task, data)
    batch = before(batch, 0) if before else batch
    batch = after(batch, 0) if after else batch
    return in_dtype_of(task, batch)


def _try_steps(plugin: Plugin, task: LossOnly, batch: Any, parts: list[tuple[Any, int]]) -> None:
    """Tries the steps of an ordinary LightningModule on a batch and on its parts, (part, rows) each."""
    with called(plugin, "training_step"), torch.enable_grad():
        task.training_loss(batch, 0)
    rows = sum(count for _, count in parts)
    with called(plugin, "validation_step"):
        whole, again = (task.logged("validation", batch, 0, rows) for _ in range(2))
        found = [task.logged("validation", part, 0, count) for part, count in parts]
    with called(plugin, "predict_step"):
        task.predictions(batch)
    drawn = not torch.equal(whole.loss, again.loss)  # it depends on random numbers
    if not drawn and getattr(type(task.module), "mean_over_rows", True):
        _check_mean(
            plugin,
            rows,
            whole.loss,
            [(part.weight, part.loss) for part in found],
            "log the loss with its weight, as self.log('val_loss', loss, batch_size=...), so that batches"
            " can be added up, or set mean_over_rows = False in the class if it is no mean over rows",
        )


def _try_logits(plugin: Plugin, task: Any, batch: Any, more: Any) -> None:
    """Tries every method of a task on a batch, and its loss on the rows of another."""
    with called(plugin, "forward(batch)"):
        logits = task(batch)
    with called(plugin, "labels(batch)"):
        labels = task.labels(batch)
    if len(_tensor(plugin, "labels(batch)", labels)) != len(_tensor(plugin, "forward", logits)):
        raise ConfigError(
            f"{plugin}: labels(batch) {_shape(labels)} has not one row for each of"
            f" forward(batch) {_shape(logits)}"
        )
    with called(plugin, f"loss(logits {_shape(logits)}, labels {_shape(labels)})"):
        loss = task.loss(logits, labels)
    if _tensor(plugin, "loss", loss).dim():
        raise ConfigError(
            f"{plugin}: loss gave {_shape(loss)}; give the mean over the rows, a scalar"
        )
    with called(plugin, "probabilities(logits)"):
        served = task.probabilities(logits)
    with called(plugin, f"loss(logits, probabilities {_shape(served)}), a distillation's,"):
        task.loss(logits, served)
    with called(plugin, "inverse(probabilities)"):
        inverse = task.inverse(served)
    if inverse.shape != logits.shape:
        raise ConfigError(
            f"{plugin}: inverse(probabilities) gave {_shape(inverse)}, and the logits are"
            f" {_shape(logits)}"
        )
    with called(plugin, "metric().update(probabilities, labels)"):
        metric = task.metric()
        if not isinstance(metric, Metric):
            raise TypeError(f"a {type(metric).__name__} is no torchmetrics.Metric")
        metric.update(served, labels)
    _check_scalar(plugin, metric)
    _check_weights(plugin, task, task(more), task.labels(more))


def _check_weights(plugin: Plugin, task: Any, logits: Tensor, labels: Tensor) -> None:
    """Checks that the loss of some rows is the weighted mean of their losses, as evaluation assumes."""
    rows = [slice(i, i + 1) for i in range(len(labels))]
    with called(plugin, "loss_weight(labels)"):
        weights = [loss_weight(task, labels[row]) for row in rows]
    with called(plugin, "loss of single rows"):
        parts = [
            (weight, task.loss(logits[row], labels[row]))
            for weight, row in zip(weights, rows, strict=True)
            if weight
        ]
        whole = task.loss(logits, labels)
    remedy = "define loss_weight(labels), the weight of some rows in the loss"
    _check_mean(plugin, len(rows), whole, parts, f"{remedy}, so that batches can be added up")


def _check_mean(
    plugin: Plugin, rows: int, whole: Tensor, parts: list[tuple[float, Tensor]], remedy: str
) -> None:
    """Checks that the loss of some rows is the weighted mean of their losses, (weight, loss) each."""
    counted = [(weight, loss.double()) for weight, loss in parts if weight]
    if not counted:
        return
    weights = torch.tensor([weight for weight, _ in counted], dtype=torch.float64)
    mean = (weights * torch.stack([loss for _, loss in counted])).sum() / weights.sum()
    tolerance = 2e-2 if whole.dtype == torch.bfloat16 else 1e-3
    whole = whole.double()
    if torch.isfinite(whole) and not torch.isclose(whole, mean, rtol=tolerance, atol=1e-6):
        raise ConfigError(
            f"{plugin}: the loss of {rows} validation examples is {whole:.4f}, and the mean of their"
            f" losses is {mean:.4f}; {remedy}"
        )


def _check_dtype(plugin: Plugin, task: nn.Module, precision: int | str) -> None:
    dtypes = {str(p.dtype).removeprefix("torch.") for p in trained(task)}
    if not dtypes:
        raise ConfigError(f"{plugin} has no parameter to train")
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64", "bfloat16"}:
        raise ConfigError(
            f"{plugin}: its trained parameters are {' and '.join(sorted(dtypes))}; they have to be of"
            " one dtype, float32, float64 or bfloat16"
        )
    if precision == "bf16-mixed" and dtypes != {"float32"}:
        raise ConfigError(
            f"scale.precision: bf16-mixed needs float32 weights, and {plugin} is {dtypes.pop()}"
        )


def _check_scalar(plugin: Plugin, metric: Metric) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # metrics may warn about so few examples
        try:
            value = metric.compute()
        except ValueError:
            return  # some metrics need more than two examples
    if not isinstance(value, Tensor) or value.dim():
        what = _shape(value) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ConfigError(f"{plugin}: metric().compute() gave {what}; give one number, a scalar")


def _tensor(plugin: Plugin, call: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ConfigError(f"{plugin}: {call} gave a {type(value).__name__} and not a tensor")
    return value


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


@contextmanager
def called(plugin: Plugin, what: str) -> Iterator[None]:
    """Turns any error that a class raises into one line with the class, the call and the line number."""
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:
        reason = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        raise ConfigError(f"{plugin}: {what} raised {reason}{plugin.line_of(error)}") from error
