"""Checks that trials can run with their classes and hyper-parameters. An error is one line."""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from paceline.benchmarks.spec.benchmark import Trial, Workload
from paceline.benchmarks.spec.optimizing import check_optimized, check_under_zero
from paceline.benchmarks.spec.plugin import ConfigError, Plugin
from paceline.datasets.batches import with_batches
from paceline.datasets.reading import cache
from paceline.datasets.reading.cache import DataError
from paceline.lightning_modules.backend import randomness
from paceline.lightning_modules.backend.precision import in_dtype_of
from paceline.lightning_modules.backend.state import trained
from paceline.lightning_modules.backend.task import Task, loss_weight

LOOKED_AT = 16  # validation examples on which the weights of the loss are checked
NAMES = {
    "loss_name": "the loss in the words of the workload, with its unit",
    "metric_name": "the metric beside it",
}
LOADERS = {
    "train_dataloader": "the examples to train on",
    "val_dataloader": "the examples to evaluate on",
}


def check_classes(data: Plugin, task: Plugin) -> None:
    """Checks the classes of the data and the task without building them.

    Raises:
        ConfigError: if a base class, a method or an attribute is missing. The message names the first one
            and says what it has to be.
    """
    if not issubclass(task.cls, nn.Module):
        raise ConfigError(f"{task} is no torch.nn.Module; derive it from {Task.__module__}.Task")
    for name, method in vars(Task).items():
        if name in Task.__abstractmethods__ and _lacks(task.cls, name):
            arguments = [p for p in inspect.signature(method).parameters if p != "self"]
            purpose = method.__doc__.splitlines()[0]
            raise ConfigError(f"{task} has no method '{name}({', '.join(arguments)})': {purpose}")
    for name, purpose in NAMES.items():
        if not isinstance(getattr(task.cls, name, None), str):
            raise ConfigError(f"{task} has no attribute '{name}', a string: {purpose}")
    if not issubclass(data.cls, LightningDataModule):
        raise ConfigError(f"{data} is no LightningDataModule; derive it from that")
    for name, purpose in LOADERS.items():
        if _lacks(data.cls, name):
            raise ConfigError(f"{data} has no method '{name}()', a DataLoader: {purpose}")


def _lacks(cls: type, name: str) -> bool:
    """Returns whether a class has nothing of that name, or only the default of a base class."""
    inherited = (nn.Module, LightningModule, LightningDataModule, Task)
    return getattr(cls, name, None) in [None, *(getattr(base, name, None) for base in inherited)]


def prepared(trials: Sequence[Trial]) -> LightningDataModule:
    """Prepares the data of trials on one workload and returns the data module.

    It passes one or two validation examples through the task to check both.

    Raises:
        ConfigError: if the task and the data do not fit each other or the algorithms, or if an algorithm
            refuses its hyper-parameters.
        DataError: if the data cannot be used.
    """
    with randomness.seeded(randomness.OF_DATA):  # as in the ranks
        return _prepared(trials)


def _prepared(trials: Sequence[Trial]) -> LightningDataModule:
    workload = trials[0].workload
    with _called(workload.data, "building it and prepare_data()"):
        workload.data.build().prepare_data()
    with _called(workload.data, "setup('fit'), without what prepare_data() has set on itself,"):
        # A new object has only what prepare_data has written to disk, as in the ranks.
        data: LightningDataModule = workload.data.build()
        data.setup("fit")
    for name in LOADERS:
        with _called(workload.data, f"{name}()"):
            loader = getattr(data, name)()
        _check_rows(trials, name, loader)
    with _called(workload.data, "setup('test') and test_dataloader()"):
        tested = test_loader(data)
    if tested is not None:
        _check_rows(trials, "test_dataloader", tested)
    with torch.no_grad():
        task = _checked_task(workload, data, loader)
        for trial in {trial.label: trial for trial in trials}.values():
            try:
                trial.algorithm_class(task, **trial.hyper_parameters)
            except ValueError as error:
                raise ConfigError(f"algorithms.{trial.label}: {error}") from error
    if stages := {trial.zero_stage for trial in trials} - {0}:
        check_under_zero(workload.task, task, min(stages))
    return data


def test_loader(data: LightningDataModule) -> DataLoader[Any] | None:
    """Returns the loader of the test part of a data module, or None if there is none.

    Many modules divide their rows at random in `setup`, whatever the stage. The draws are therefore the
    same as for training. Otherwise, rows that were trained on could be among those tested on.
    """
    if type(data).test_dataloader is LightningDataModule.test_dataloader:
        return None
    with randomness.seeded(randomness.OF_DATA):
        data.setup("test")
        loader: Any = data.test_dataloader()
    return None if loader == [] else loader


def _check_rows(trials: Sequence[Trial], name: str, loader: Any) -> None:
    """Checks that a loader has examples that can be dealt to the ranks, and one for every worker."""
    data = trials[0].workload.data
    dataset: Any = getattr(loader, "dataset", None)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ConfigError(
            f"{data}: {name}() has to give a DataLoader over a dataset with __len__ and __getitem__, as"
            " examples are dealt to the ranks by their numbers"
        )
    rows = len(dataset)
    if not rows:
        raise ConfigError(f"{data}: {name}() has no examples")
    widest = max(trials, key=lambda trial: trial.workers)
    if rows < widest.workers:
        raise ConfigError(
            f"{data}: {name}() has {rows} examples, fewer than the"
            f" {widest.workers} workers of {widest.title}; give more rows or set --scale.workers"
        )


def _checked_task(workload: Workload, data: LightningDataModule, loader: DataLoader[Any]) -> Any:
    plugin = workload.task
    with _called(workload.data, "reading validation examples"):
        count = len(loader.dataset)  # type: ignore[arg-type]
        spread = range(0, count, max(1, count // LOOKED_AT))
        batch, more = with_batches(loader, [list(range(count)[:2]), list(spread)])
    with _called(plugin, "building it"):
        task = workload.build_task(data).eval()
    _check_dtype(plugin, task)
    batch = in_dtype_of(task, batch)
    with _called(plugin, "forward(batch)"):
        logits = task(batch)
    with _called(plugin, "labels(batch)"):
        labels = task.labels(batch)
    if len(_tensor(plugin, "labels(batch)", labels)) != len(_tensor(plugin, "forward", logits)):
        raise ConfigError(
            f"{plugin}: labels(batch) {_shape(labels)} has not one row for each of"
            f" forward(batch) {_shape(logits)}"
        )
    with _called(plugin, f"loss(logits {_shape(logits)}, labels {_shape(labels)})"):
        loss = task.loss(logits, labels)
    if _tensor(plugin, "loss", loss).dim():
        raise ConfigError(
            f"{plugin}: loss gave {_shape(loss)}; give the mean over the rows, a scalar"
        )
    with _called(plugin, "probabilities(logits)"):
        served = task.probabilities(logits)
    with _called(plugin, f"loss(logits, probabilities {_shape(served)}), a distillation's,"):
        task.loss(logits, served)
    with _called(plugin, "inverse(probabilities)"):
        inverse = task.inverse(served)
    if inverse.shape != logits.shape:
        raise ConfigError(
            f"{plugin}: inverse(probabilities) gave {_shape(inverse)}, and the logits are"
            f" {_shape(logits)}"
        )
    with _called(plugin, "metric().update(probabilities, labels)"):
        metric = task.metric()
        if not isinstance(metric, Metric):
            raise TypeError(f"a {type(metric).__name__} is no torchmetrics.Metric")
        metric.update(served, labels)
    _check_scalar(plugin, metric)
    more = in_dtype_of(task, more)
    _check_weights(plugin, task, task(more), task.labels(more))
    with _called(plugin, "configure_optimizer(parameters)"):
        optimizer = task.configure_optimizer(trained(task))
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"a {type(optimizer).__name__} is no torch.optim.Optimizer")
    check_optimized(plugin, task, optimizer)
    return task


def _check_weights(plugin: Plugin, task: Any, logits: Tensor, labels: Tensor) -> None:
    """Checks that the loss of some rows is the weighted mean of their losses, as evaluation assumes."""
    rows = [slice(i, i + 1) for i in range(len(labels))]
    with _called(plugin, "loss_weight(labels)"):
        weights = [loss_weight(task, labels[row]) for row in rows]
    with _called(plugin, "loss of single rows"):
        parts = [
            weight * task.loss(logits[row], labels[row]).double()
            for weight, row in zip(weights, rows, strict=True)
            if weight
        ]
        whole = task.loss(logits, labels).double()
    if not parts:
        return
    mean = sum(parts) / sum(weights)
    if torch.isfinite(whole) and not torch.isclose(whole, mean, rtol=1e-3, atol=1e-6):
        raise ConfigError(
            f"{plugin}: the loss of {len(rows)} validation examples is {whole:.4f}, and the mean of"
            f" their losses is {mean:.4f}; define loss_weight(labels), the weight of some rows in the"
            " loss, so that batches can be added up"
        )


def _check_dtype(plugin: Plugin, task: nn.Module) -> None:
    dtypes = {str(p.dtype).removeprefix("torch.") for p in trained(task)}
    if not dtypes:
        raise ConfigError(f"{plugin} has no parameter to train")
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64", "bfloat16"}:
        raise ConfigError(
            f"{plugin}: its trained parameters are {' and '.join(sorted(dtypes))}; they have to be of"
            " one dtype, float32, float64 or bfloat16"
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
def _called(plugin: Plugin, what: str) -> Iterator[None]:
    """Turns any error that a class raises into one line with the class, the call and the line number."""
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:
        reason = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        raise ConfigError(f"{plugin}: {what} raised {reason}{plugin.line_of(error)}") from error


def data_fingerprint(data: Any) -> str:
    """Returns a text that represents the rows of a data module in a trial's identity.

    It is the `fingerprint` of the data module if it has one, else a hash of its description. The
    description contains the numbers of rows but not their content.
    """
    own = getattr(data, "fingerprint", None)
    return str(cache.digest(description(data)) if own is None else own)


def description(data: Any) -> dict[str, Any]:
    """Returns facts about a data module for the record and the report.

    They are its class name and numbers of rows, updated with its own `description` if it has one.
    """
    seen = {"name": type(data).__name__, "synthetic": False}
    for name, loader in zip(("train_rows", "validation_rows"), LOADERS, strict=True):
        seen[name] = len(getattr(data, loader)().dataset)
    return seen | getattr(data, "description", {})
