"""Ordinary LightningModules as tasks.

A LightningModule is trained by its own `training_step`, evaluated by its own `validation_step`, and
optimized by what its `configure_optimizers` returns. Algorithms that need only a loss can run it. If it
also has the methods of `Task` that tell logits and labels, it is trained like a task, and all algorithms
can run it.

Lightning's trainer trains the algorithm and not this module. The module therefore sees a
`TrainerView` as `self.trainer`, and what it logs is collected here.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from paceline.lightning_modules.backend import private
from paceline.lightning_modules.backend.evaluation import Logged
from paceline.lightning_modules.backend.task import Configured, Task
from paceline.lightning_modules.backend.trainer_view import TrainerView

LOADERS = {"train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader"}
BatchHook = Callable[[Any, int], Any]
BatchHooks = tuple[BatchHook | None, BatchHook | None]
STEPS = {"validation": "validation_step", "test": "test_step"}
# The hooks of Lightning that are called.
CALLED = {"configure_model", "on_after_batch_transfer", "on_before_batch_transfer", "setup"}
# What Lightning calls beside the hooks of its `core.hooks`.
OVERRIDES = {
    "backward",
    "configure_callbacks",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "optimizer_step",
    "optimizer_zero_grad",
}


def lacking(cls: type) -> list[str]:
    """Returns the methods of `Task` that tell logits and labels and that a class lacks."""
    needed = sorted(Task.__abstractmethods__ - {"configure_optimizer"})
    return [name for name in needed if lacks(cls, name)]


def is_lightning(cls: type) -> bool:
    """Returns whether a class is a LightningModule that trains or optimizes itself as Lightning asks."""
    ordinary = not all(lacks(cls, name) for name in ("training_step", "configure_optimizers"))
    return issubclass(cls, LightningModule) and ordinary and lacks(cls, "configure_optimizer")


def loss_only(cls: type) -> bool:
    """Returns whether a class tells its loss, but not its logits and labels."""
    return is_lightning(cls) and bool(lacking(cls))


def wrapped(task: Any) -> Any:
    """Returns a task for a LightningModule, and any other task as it is."""
    if not is_lightning(type(task)):
        return task
    made = (LossOnly if loss_only(type(task)) else WithLogits)(task)
    task.setup("fit")
    task.configure_model()
    return made


def bare(task: Any) -> Any:
    """Returns the LightningModule in a task, or a task that has none as it is."""
    return task.module if isinstance(task, WrappedModule) else task


def hooks_not_called(cls: type) -> list[str]:
    """Returns the hooks of Lightning that a class has, as module or as data module, and that are not
    called.
    """
    names = {n for base in (ModelHooks, CheckpointHooks, DataHooks) for n in vars(base)} | OVERRIDES
    if issubclass(cls, LightningDataModule):
        names -= {"prepare_data"}
    elif not lacking(cls):
        # It is trained like a task.
        names |= {"training_step", "validation_step", "test_step", "predict_step"}
    return sorted(n for n in names - CALLED - LOADERS if n[0] != "_" and not lacks(cls, n))


def lacks(cls: type, name: str) -> bool:
    """Returns whether a class has nothing of that name, or only the default of a base class."""
    inherited = (nn.Module, LightningModule, LightningDataModule, Task)
    return getattr(cls, name, None) in [None, *(getattr(base, name, None) for base in inherited)]


def batch_hooks(task: Any, data: LightningDataModule) -> BatchHooks:
    """Returns what is called with every batch before and after it is moved to the device, if anything.

    If both the data module and the module have a hook, it is that of the data module, as in Lightning.
    """

    def hook(name: str) -> BatchHook | None:
        if getattr(type(data), name) is not getattr(LightningDataModule, name):
            return getattr(data, name)  # type: ignore[no-any-return]
        module = bare(task)
        if module is task or getattr(type(module), name) is getattr(LightningModule, name):
            return None
        return getattr(module, name)  # type: ignore[no-any-return]

    return hook("on_before_batch_transfer"), hook("on_after_batch_transfer")


class WrappedModule(nn.Module):
    """A task around a LightningModule, which brings its own optimizer and schedule.

    It also has all attributes of the module.
    """

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = module
        self.view = TrainerView()
        module.trainer = self.view  # type: ignore[assignment]
        self._noted: dict[str, tuple[Any, float | None]] = {}
        # `log` of a LightningModule would look for the step of the trainer that it was called in.
        module.log = self._note  # type: ignore[method-assign]
        # Many modules ask for the optimizer only to log its rate.
        module.optimizers = lambda *_: self._configured.optimizer  # type: ignore
        module.lr_schedulers = lambda: self._configured.scheduler  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def _note(self, name: str, value: Any, *_: Any, **options: Any) -> None:
        self._noted[name] = value, options.get("batch_size")

    def trained_by(self, trainer: Trainer) -> None:
        """Connects the module to the trainer, whose step it may ask for."""
        self.view.trainer = trainer

    def configured(self, steps: int, epoch_steps: float) -> Configured:
        """Returns the optimizer and the scheduler of `configure_optimizers`.

        Raises:
            ValueError: it returns more than one of either, or the module optimizes manually.
        """
        self.view.plan(steps, epoch_steps)
        self.module.trainer = self.view  # type: ignore[assignment]  # a copy of a module has none
        if not self.module.automatic_optimization:
            raise ValueError(
                "automatic_optimization is False; only training_step with one optimizer can be run"
            )
        optimizers, schedulers = private.optimizers_and_schedulers(self.module)
        if len(optimizers) != 1 or len(schedulers) > 1:
            raise ValueError(
                f"configure_optimizers gives {len(optimizers)} optimizers and {len(schedulers)}"
                " schedulers; give one optimizer and at most one scheduler"
            )
        self._configured = Configured(optimizers[0])
        if not schedulers:
            return self._configured
        (chosen,) = schedulers
        by_epoch = chosen.interval == "epoch"
        self._configured = Configured(optimizers[0], chosen.scheduler, chosen.frequency, by_epoch)
        return self._configured


class WithLogits(WrappedModule):
    """A LightningModule that also has the methods of `Task` that tell logits and labels."""

    def forward(self, batch: Any) -> Any:
        return self.module(batch)


class LossOnly(WrappedModule):
    """A LightningModule that tells its loss, but not its logits and labels."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__(module)
        steps = ("training_step", *STEPS.values(), "predict_step")
        self._numbered = {step: private.takes_index(getattr(module, step)) for step in steps}

    def begin_evaluation(self) -> None:
        """Resets all metrics of the module, as Lightning does when an epoch ends."""
        for part in self.module.modules():
            if isinstance(part, Metric | MetricCollection):
                part.reset()

    def training_loss(self, batch: Any, index: int) -> Tensor:
        """Returns the loss of `training_step`."""
        self._noted.clear()
        result = self._call("training_step", batch, index)
        loss = result.get("loss") if isinstance(result, Mapping) else result
        if not isinstance(loss, Tensor) or loss.dim():
            raise ValueError("training_step has to return the loss, a scalar, or {'loss': loss}")
        return loss

    def logged(self, what: str, batch: Any, index: int, rows: int) -> Logged:
        """Returns what the step of an evaluation logs.

        The loss is `val_loss`, or the only logged name with `loss` in it. The metric is the first that is
        no loss. Attributes `loss_name` and `metric_name` of the class choose others.

        Args:
            what: `validation` or `test`.
            batch: the batch.
            index: the number of the batch.
            rows: the number of its examples. It is the weight of the loss unless `log` states a
                `batch_size`.

        Raises:
            ValueError: the loss is not found among what is logged.
        """
        self._noted.clear()
        self._call(STEPS[what], batch, index)
        noted = dict(self._noted)
        self._noted.clear()
        losses = [name for name in noted if "loss" in name.lower()]
        name = self._stated("loss_name", what, noted)
        if name is None:
            name = f"{'val' if what == 'validation' else what}_loss"
            name = name if name in noted else losses[0] if len(losses) == 1 else None
        if name is None:
            raise ValueError(
                f"{STEPS[what]} logs {', '.join(noted) or 'nothing'}; log the loss with"
                " self.log('val_loss', loss), or name what you log in an attribute loss_name"
            )
        value, stated = noted[name]
        metric = self._stated("metric_name", what, noted)
        if metric is None:
            others = (other for other in noted if other not in losses and other != name)
            metric = next(others, None)
        weight = float(rows if stated is None else stated)
        return Logged(_number(name, value), weight, None if metric is None else noted[metric][0])

    def _stated(self, attribute: str, what: str, noted: Mapping[str, Any]) -> str | None:
        """Returns the logged name that an attribute of the class chooses, or None if it has none.

        For the test part, the name may begin with `test` where it begins with `val` in the attribute.
        """
        name = getattr(type(self.module), attribute, None)
        if what == "test" and name not in noted:
            name = name and re.sub("^val(id|idation)?(?=[^a-z]|$)", "test", name)
            return name if name in noted else None
        if name is not None and name not in noted:
            raise ValueError(
                f"{STEPS[what]} logs {', '.join(noted) or 'nothing'}, and {attribute} is {name!r}; give"
                " one of the names that are logged"
            )
        return name

    def predictions(self, batch: Any) -> dict[str, Tensor]:
        """Returns the result of `predict_step` if the module has one of its own."""
        if type(self.module).predict_step is LightningModule.predict_step:
            return {}
        found = self._call("predict_step", batch, 0)
        return {"model": found} if isinstance(found, Tensor) and found.dim() else {}

    @property
    def tests(self) -> bool:
        """Whether the module has a `test_step` of its own."""
        return type(self.module).test_step is not LightningModule.test_step

    def _call(self, step: str, batch: Any, index: int) -> Any:
        method = getattr(self.module, step)
        # Lightning lets a step leave out the number of the batch.
        return method(batch, index) if self._numbered[step] else method(batch)


def row_of(batch: Any, rows: int, place: int) -> Any:
    """Returns one row of a batch: that of every tensor that has `rows` rows."""

    def cut(tensor: Tensor) -> Tensor:
        whole = not tensor.dim() or len(tensor) != rows
        return tensor if whole else tensor[place : place + 1]

    return apply_to_collection(batch, Tensor, cut)


def _number(name: str, value: Any) -> Tensor:
    found = torch.as_tensor(value.compute() if isinstance(value, Metric) else value).detach()
    if found.numel() != 1:
        raise ValueError(
            f"{name} is logged as {list(found.shape)}; log the mean over the rows, a scalar"
        )
    return found.flatten()[0]
