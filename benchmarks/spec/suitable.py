"""Checks that trials can run with their classes and hyper-parameters. An error is one line."""

import inspect
from collections.abc import Sequence
from types import NoneType
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
)

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import ConfigError, Plugin
from paceline.benchmarks.spec.tried import called, tried
from paceline.datasets.reading import cache
from paceline.lightning_modules.backend import randomness
from paceline.lightning_modules.backend.task import Task
from paceline.lightning_modules.backend.wrapped import is_lightning, lacking, lacks

NAMES = {
    "loss_name": "the loss in the words of the workload, with its unit",
    "metric_name": "the metric beside it",
}
STEPS = {
    "training_step": "it returns the loss of a batch",
    "validation_step": "it logs the loss of a batch of validation examples with self.log",
    "configure_optimizers": "it returns the optimizer",
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
    if is_lightning(task.cls):
        _check_steps(task)
    if not (is_lightning(task.cls) and lacking(task.cls)):
        _check_task_class(task)
    if not issubclass(data.cls, LightningDataModule):
        raise ConfigError(f"{data} is no LightningDataModule; derive it from that")
    for name, purpose in LOADERS.items():
        if lacks(data.cls, name):
            raise ConfigError(f"{data} has no method '{name}()', a DataLoader: {purpose}")


def _check_steps(task: Plugin) -> None:
    for name, purpose in STEPS.items():
        needed = name == "configure_optimizers" or lacking(task.cls)
        if needed and lacks(task.cls, name):
            raise ConfigError(f"{task} has no method '{name}': {purpose}")


def _check_task_class(task: Plugin) -> None:
    for name, method in vars(Task).items():
        own_optimizer = name == "configure_optimizer" and is_lightning(task.cls)
        if name in Task.__abstractmethods__ and lacks(task.cls, name) and not own_optimizer:
            arguments = [p for p in inspect.signature(method).parameters if p != "self"]
            purpose = method.__doc__.splitlines()[0]
            raise ConfigError(f"{task} has no method '{name}({', '.join(arguments)})': {purpose}")
    for name, purpose in NAMES.items():
        if not isinstance(getattr(task.cls, name, None), str):
            raise ConfigError(f"{task} has no attribute '{name}', a string: {purpose}")


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
    with called(workload.data, "building it and prepare_data()"):
        workload.data.build().prepare_data()
    with called(workload.data, "setup('fit'), without what prepare_data() has set on itself,"):
        # A new object has only what prepare_data has written to disk, as in the ranks.
        data: LightningDataModule = workload.data.build()
        data.setup("fit")
    rows: list[int] = []
    for name in LOADERS:
        with called(workload.data, f"{name}()"):
            loader = loader_of(data, name)
        _check_rows(trials, name, loader)
        rows.append(len(loader.dataset))
    with called(workload.data, "setup('test') and test_dataloader()"):
        tested = test_loader(data)
    if tested is not None:
        _check_rows(trials, "test_dataloader", tested)
    with torch.no_grad():
        task = tried(trials, data, loader, rows[0])
        for trial in {trial.label: trial for trial in trials}.values():
            try:
                trial.algorithm_class(task, **trial.hyper_parameters)
            except ValueError as error:
                raise ConfigError(f"algorithms.{trial.label}: {error}") from error
    return data


def loader_of(data: LightningDataModule, name: str) -> Any:
    """Returns what a method such as `train_dataloader` gives. A list of one loader is that loader."""
    found = getattr(data, name)()
    return found[0] if isinstance(found, list | tuple) and len(found) == 1 else found


def test_loader(data: LightningDataModule) -> DataLoader[Any] | None:
    """Returns the loader of the test part of a data module, or None if there is none.

    Many modules divide their rows at random in `setup`, whatever the stage. The draws are therefore the
    same as for training. Otherwise, rows that were trained on could be among those tested on.
    """
    if type(data).test_dataloader is LightningDataModule.test_dataloader:
        return None
    with randomness.seeded(randomness.OF_DATA):
        data.setup("test")
        loader = loader_of(data, "test_dataloader")
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
    _check_sampler(f"{data}: {name}()", loader)
    rows = len(dataset)
    if not rows:
        raise ConfigError(f"{data}: {name}() has no examples")
    widest = max(trials, key=lambda trial: trial.workers)
    if rows < widest.workers:
        raise ConfigError(
            f"{data}: {name}() has {rows} examples, fewer than the"
            f" {widest.workers} workers of {widest.title}; give more rows or set --scale.workers"
        )


def _check_sampler(place: str, loader: Any) -> None:
    """Checks that a loader takes every example once, in order or shuffled, as the ranks do."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    usual = type(sampler) in (NoneType, SequentialSampler, DistributedSampler) or (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(loader.dataset)
    )
    if usual and type(batches) in (NoneType, BatchSampler):
        return
    odd = type(batches if usual else sampler).__name__
    raise ConfigError(
        f"{place} has a {odd}, which is not used, as examples are dealt to the ranks by their numbers; to"
        " leave examples out, give the loader a torch.utils.data.Subset"
    )


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
        seen[name] = len(loader_of(data, loader).dataset)
    return seen | getattr(data, "description", {})
