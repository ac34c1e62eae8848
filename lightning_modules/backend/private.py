"""The private names of Lightning, DeepSpeed and torch that Paceline relies on.

A new release may rename any of them. `tests/lightning_modules/backend/test_private.py` checks each name
in `RELIED_ON`. If a name no longer exists, the test says what to do.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch.distributed
from pytorch_lightning import LightningModule, Trainer


@dataclass(frozen=True)
class PrivateName:
    """A private name of another package.

    Attributes:
        module: the module that defines it.
        path: the name in that module, e.g. `Class.method`.
        purpose: what Paceline needs it for.
        remedy: what to do if a new release no longer has it.
    """

    module: str
    path: str
    purpose: str
    remedy: str


RELIED_ON = (
    PrivateName(
        "pytorch_lightning.strategies",
        "DeepSpeedStrategy._init_deepspeed_distributed",
        "DeepSpeedBackend.setup_distributed starts DeepSpeed's process group with it",
        "call deepspeed.init_distributed with the backend and the timeout of the strategy",
    ),
    PrivateName(
        "pytorch_lightning.strategies",
        "DeepSpeedStrategy._setup_model_and_optimizer",
        "DeepSpeedBackend overrides it to give DeepSpeed the groups of a replica",
        "override the method that now calls deepspeed.initialize",
    ),
    PrivateName(
        "pytorch_lightning.strategies",
        "DeepSpeedStrategy._get_process_group_backend",
        "DeepSpeedBackend overrides it to take gloo where ranks share a GPU",
        "set the process group's backend where the strategy now chooses it",
    ),
    PrivateName(
        "pytorch_lightning.loops.training_epoch_loop",
        "_TrainingEpochLoop._broadcast_sigterm_tensor",
        "no_broadcast_before_steps turns it off, as it keeps free replicas in step",
        "turn off whatever broadcasts from rank 0 before every step, or nothing if nothing does",
    ),
    PrivateName(
        "pytorch_lightning.loops.training_epoch_loop",
        "is_param_in_hook_signature",
        "no_inspection_at_steps caches it, as it inspects training_step at every step",
        "profile a step and cache what inspects it now, or nothing if nothing does",
    ),
    PrivateName(
        "pytorch_lightning.utilities.signature_utils",
        "is_param_in_hook_signature",
        "takes_index asks it whether a step wants the number of the batch",
        "count the arguments of the step: two without self, or one called batch_idx",
    ),
    PrivateName(
        "pytorch_lightning.core.optimizer",
        "_configure_optimizers",
        "optimizers_and_schedulers reads what configure_optimizers returns with it",
        "read the forms that Lightning documents: an optimizer, two lists, a dictionary",
    ),
    PrivateName(
        "pytorch_lightning.core.optimizer",
        "_configure_schedulers_automatic_opt",
        "optimizers_and_schedulers completes the settings of a scheduler with it",
        "fill in Lightning's defaults: interval 'epoch', frequency 1",
    ),
    PrivateName(
        "deepspeed.comm.torch",
        "build_shm_op",
        "no_shared_memory_build replaces it, as it compiles for half a minute",
        "look for what deepspeed.comm.torch.TorchBackend builds in its constructor",
    ),
    PrivateName(
        "deepspeed",
        "DeepSpeedEngine._broadcast_model",
        "no_broadcast_of_models replaces it, as it fails on parameters of no dimension",
        "check that a model with such a parameter trains (tests/models.py) without it",
    ),
    PrivateName(
        "deepspeed",
        "DeepSpeedEngine.allreduce_gradients",
        "reduce_by replaces it, as it reduces the gradients of ZeRO 0 only after backward",
        "call Reduction.finish where DeepSpeedEngine.backward now ends",
    ),
    PrivateName(
        "deepspeed.comm.comm",
        "cdb",
        "the ledger wraps the methods of this object to count what is sent",
        "find the object that deepspeed.comm's functions delegate to",
    ),
    PrivateName(
        "deepspeed.utils.groups",
        "mpu",
        "forget_groups resets it, as it outlives the engine that set it",
        "find where deepspeed.initialize now keeps its argument mpu",
    ),
    PrivateName(
        "deepspeed.runtime.zero.stage3",
        "DeepSpeedZeroOptimizer_Stage3._clear_fp32_optimizer_param_groups",
        "release_parameters_of calls it, so that a resumed Adagrad has its parameters once",
        "check that Adagrad resumes under ZeRO 3 (test_a_checkpoint_keeps_every_replica) without it",
    ),
    PrivateName(
        "torch.distributed.distributed_c10d",
        "_get_default_store",
        "rendezvous_store gives the ranks of an asynchronous algorithm their tickets",
        "open a TCPStore of our own at MASTER_ADDR and MASTER_PORT",
    ),
)


def no_shared_memory_build() -> None:
    """Keeps DeepSpeed from compiling a shared-memory operation that training never uses."""
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]


def no_broadcast_of_models() -> None:
    """Keeps DeepSpeed from broadcasting the model of a new engine.

    The broadcast is not needed: all ranks use the same seed, and their models are compared.
    """
    deepspeed: Any = sys.modules["deepspeed"]
    deepspeed.DeepSpeedEngine._broadcast_model = lambda _: None


def reduce_by(finish: Callable[[], None], engine: Any) -> None:
    """Makes an engine call `finish` at the end of every backward, and not reduce gradients itself."""
    engine.allreduce_gradients = finish


def allow_float64() -> None:
    """Makes DeepSpeed reduce float64 gradients, which none of its accelerators supports by default."""
    accelerator: Any = sys.modules["deepspeed.accelerator"].get_accelerator()
    listed = accelerator.supported_dtypes()
    accelerator.supported_dtypes = lambda: [*dict.fromkeys([*listed, torch.float64])]


def communication_backend() -> Any:
    """Returns the object through which `deepspeed.comm` sends everything."""
    return sys.modules["deepspeed.comm.comm"].cdb


def forget_groups() -> None:
    """Makes DeepSpeed forget the process groups of the previous engine."""
    sys.modules["deepspeed.utils.groups"].mpu = None  # type: ignore[attr-defined]


def no_broadcast_before_steps(trainer: Trainer) -> None:
    """Keeps Lightning from broadcasting, before every step, whether rank 0 was told to end."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def no_inspection_at_steps() -> None:
    """Keeps Lightning from inspecting the signature of `training_step` at every step."""
    loop: Any = sys.modules["pytorch_lightning.loops.training_epoch_loop"]
    inspect = loop.is_param_in_hook_signature
    if not hasattr(inspect, "cache_info"):
        loop.is_param_in_hook_signature = lru_cache(maxsize=1)(inspect)


def takes_index(step: Callable[..., Any]) -> bool:
    """Returns whether Lightning passes the number of the batch to a step of a LightningModule."""
    lightning: Any = sys.modules["pytorch_lightning.utilities.signature_utils"]
    return bool(lightning.is_param_in_hook_signature(step, "batch_idx", min_args=2))


def optimizers_and_schedulers(module: LightningModule) -> tuple[list[Any], list[Any]]:
    """Returns the optimizers, and Lightning's settings of the schedulers, of a LightningModule."""
    lightning: Any = sys.modules["pytorch_lightning.core.optimizer"]
    optimizers, schedulers, monitor = lightning._configure_optimizers(module.configure_optimizers())
    return optimizers, lightning._configure_schedulers_automatic_opt(schedulers, monitor)


class QuickHooks:
    """Makes Lightning's hooks quicker. It is a base class that stands before `LightningModule`.

    Lightning notes in the module which hook it calls, about fifty times in a step. Each time,
    `nn.Module.__setattr__` would look for parameters and modules.
    """

    NOTE = "_current_fx_name"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == QuickHooks.NOTE:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


def release_parameters_of(zero_3_optimizer: Any) -> None:
    """Removes the parameters from a new ZeRO 3 optimizer, because loading a checkpoint adds them."""
    zero_3_optimizer._clear_fp32_optimizer_param_groups()


def rendezvous_store() -> Any:
    """Returns the store through which the ranks found each other. The parent process holds it."""
    return torch.distributed.distributed_c10d._get_default_store()
