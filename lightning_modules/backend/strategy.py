"""The Lightning strategy that trains every algorithm through DeepSpeed, on CPUs and on GPUs."""

import argparse
from datetime import timedelta
from pathlib import Path
from typing import Any

# Imported before DeepSpeed, whose accelerator it chooses.
from paceline.lightning_modules.backend.replica import ReplicaStrategy

# ruff: isort: split
import deepspeed
import torch
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from paceline.lightning_modules.backend import private
from paceline.lightning_modules.backend.clock import Clock
from paceline.lightning_modules.backend.groups import ReplicaGroups
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import Ledger
from paceline.lightning_modules.backend.precision import OwnPrecision
from paceline.lightning_modules.backend.randomness import restore as restore_random
from paceline.lightning_modules.backend.randomness import state as random_state
from paceline.lightning_modules.backend.reduction import Reduction
from paceline.lightning_modules.backend.state import (
    digest,
    tensors,
    trained,
)


def devices_of(ranks: int, gpus: int) -> list[torch.device]:
    """Returns the device of each rank of a node. Several ranks may share a GPU."""
    return [torch.device("cuda", i % gpus) if gpus else torch.device("cpu") for i in range(ranks)]


def keep_off_gpus() -> None:
    """Makes DeepSpeed use the CPU, even on a machine with GPUs."""
    set_accelerator(CPU_Accelerator())


class DeepSpeedBackend(ReplicaStrategy):
    """The Lightning strategy that trains each replica as one DeepSpeed data-parallel group.

    The strategy itself sends nothing between replicas. An algorithm does that in its exchanges. The
    same code uses gloo on CPUs and NCCL on GPUs. If several ranks share a GPU, it uses gloo, because
    NCCL does not allow that.

    Attributes:
        reduction: averages the gradients inside the replica. It is None under ZeRO 1 to 3, where
            DeepSpeed does that.

    Args:
        layout: how the ranks are divided into replicas.
        zero_stage: the stage of ZeRO inside a replica, 0 to 3.
        clip_norm: the largest norm of the gradient of a replica, or None for any.
        devices: the device of each rank of this node. By default, Lightning chooses them.
        timeout: how long a collective operation may wait for the other ranks.

    Raises:
        ValueError: `layout` does not have as many ranks as there are processes.
    """

    strategy_name = "paceline"

    def __init__(
        self,
        layout: Layout,
        zero_stage: int = 0,
        clip_norm: float | None = None,
        devices: list[torch.device] | None = None,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        super().__init__(
            parallel_devices=devices,
            config={
                "zero_allow_untested_optimizer": True,
                "zero_optimization": {"stage": zero_stage, "overlap_comm": False},
                "train_micro_batch_size_per_gpu": 1,  # used only for DeepSpeed's own logging
                # DeepSpeed's default is to clip at 1. Under ZeRO 0, `_reduced` clips.
                "gradient_clipping": clip_norm or 0.0 if zero_stage else 0.0,
                # Each replica has a tag of its own. Otherwise, all would write the same files.
                "checkpoint": {"tag_validation": "Ignore"},
            },
            timeout=timeout,
            precision_plugin=OwnPrecision(),
            # Lightning would find the launcher that has started the parent, such as SLURM.
            cluster_environment=TorchElasticEnvironment(),
        )
        self.layout, self.zero_stage, self.clip_norm = layout, zero_stage, clip_norm
        self.ledger = Ledger()
        self.reduction: Reduction | None = None
        self._random_state: dict[str, Any] | None = None

    def setup_environment(self) -> None:
        # Lightning's DeepSpeed strategy only adds a check here, which allows CUDA alone.
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        private.no_shared_memory_build()
        private.no_broadcast_of_models()
        private.allow_float64()
        if self.root_device.type == "cuda":
            torch.cuda.set_device(self.root_device)
        self.clock = Clock(self.root_device)
        self._init_deepspeed_distributed()
        self.ledger.attach(private.communication_backend())
        self.groups = ReplicaGroups(self.layout, self.global_rank)

    def setup(self, trainer: Trainer) -> None:
        # Before every step, Lightning broadcasts from rank 0 whether training was told to end. No
        # algorithm needs that. It would synchronise replicas that should run independently.
        private.no_broadcast_before_steps(trainer)
        private.no_inspection_at_steps()
        super().setup(trainer)

    def _get_process_group_backend(self) -> str:
        devices = self.parallel_devices or []
        shared = self.root_device.type == "cuda" and len(set(devices)) < len(devices)
        return "gloo" if shared else super()._get_process_group_backend()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        self._check_alike()
        private.forget_groups()
        engine, engine_optimizer, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            mpu=self.groups,
            dist_init_required=False,
        )
        if self.zero_stage:
            # Otherwise DeepSpeed sends all gradients as float32.
            engine.communication_data_type = trained(self.task)[0].dtype
        else:
            self.reduction = Reduction(trained(model), self.groups.replica, self.layout.ranks)
            private.reduce_by(self._reduced, engine)
        if self.zero_stage_3:
            # DeepSpeed leaves the parameters in a fresh Adagrad, but in no other optimizer. It then
            # adds them a second time when it loads a checkpoint.
            private.release_parameters_of(engine_optimizer)
        return engine, engine_optimizer

    @property
    def stepping(self) -> bool:
        """Whether the optimizer steps after this batch. If not, gradients are accumulated."""
        return bool(self.deepspeed_engine.is_gradient_accumulation_boundary())

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        if self.reduction is not None:
            self.reduction.accumulating = not self.stepping
        return super().backward(closure_loss, optimizer, *args, **kwargs)

    def _reduced(self) -> None:
        """Completes the gradients of a step under ZeRO 0, at the end of every backward."""
        assert self.reduction is not None
        if self.reduction.accumulating:
            return
        self.reduction.finish()
        self.lightning_module.add_to_gradients()  # type: ignore[union-attr, operator]
        if self.clip_norm is None:
            return
        self.gradients()  # makes them dense, because torch has no norm of sparse ones
        # The ranks of a replica have the same gradients, so nothing has to be sent.
        nn.utils.clip_grad_norm_(trained(self.task), self.clip_norm)

    def _check_alike(self) -> None:
        """Raises `ValueError` if ranks that train one model begin with different weights."""
        own = torch.frombuffer(bytearray(digest(self.task)), dtype=torch.uint8).to(self.root_device)
        group = None if self.lightning_module.one_model else self.groups.replica  # type: ignore[union-attr]
        first = 0 if group is None else self.layout.members(self.replica)[0]
        theirs = own.clone()
        torch.distributed.broadcast(theirs, first, group=group)
        if not torch.equal(own, theirs):
            raise ValueError(
                f"rank {self.global_rank} begins with another model than rank {first}: draw weights"
                " from torch's own random numbers, which are seeded"
            )

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Writes the state of every replica into the folder `filepath`, each under its own tag."""
        folder = self.broadcast(filepath)
        with self.ledger.during("checkpoint"):
            self.deepspeed_engine.save_checkpoint(str(folder), self._tag, save_latest=False)
        # DeepSpeed does not save state that differs between the ranks of a replica.
        own = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
        schedule = self.lightning_module.schedule.state_dict()  # type: ignore[union-attr]
        buffers = tensors(self.task, "buffers", "counters")
        torch.save((own, schedule, buffers, random_state()), self._file_of_rank(folder))

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads this rank's part of a checkpoint and returns Lightning's state.

        Raises:
            FileNotFoundError: the folder does not contain the state of this rank.
        """
        file = self._file_of_rank(checkpoint_path)
        if not file.is_file():
            raise FileNotFoundError(f"{checkpoint_path}: no checkpoint of {self._tag} in it")
        with self.ledger.during("checkpoint"):
            self.deepspeed_engine.load_checkpoint(
                str(checkpoint_path), self._tag, load_lr_scheduler_states=False
            )
        own, schedule, buffers, self._random_state = torch.load(file, weights_only=False)
        self.lightning_module.schedule.load_state_dict(schedule)  # type: ignore[union-attr]
        for buffer, saved in zip(tensors(self.task, "buffers", "counters"), buffers, strict=True):
            buffer.copy_(saved)
        return dict(own)

    def on_train_start(self) -> None:
        # Restored only now, because Lightning draws random numbers when it sets up the data.
        if self._random_state is not None:
            restore_random(self._random_state)
            self._random_state = None

    def _file_of_rank(self, folder: str | Path) -> Path:
        return Path(folder) / self._tag / f"rank_{self.global_rank}.pt"

    @property
    def _tag(self) -> str:
        return f"replica_{self.replica}"

    def teardown(self) -> None:
        if self.reduction is not None:
            self.reduction.close()
        private.forget_groups()
        super().teardown()
