"""The Lightning strategy that trains every algorithm through DeepSpeed, on CPUs and on GPUs."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

# DeepSpeed chooses its accelerator when it is first imported. Without a GPU, it would print a warning.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# ruff: isort: split
import deepspeed
import deepspeed.comm as dist
from deepspeed.accelerator import get_accelerator, set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy
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
    Key,
    State,
    digest,
    groups,
    pack,
    tensors,
    trained,
    unpack,
)


def keep_off_gpus() -> None:
    """Makes DeepSpeed use the CPU, even on a machine with GPUs."""
    set_accelerator(CPU_Accelerator())


class DeepSpeedBackend(DeepSpeedStrategy):
    """The Lightning strategy that trains each replica as one DeepSpeed data-parallel group.

    The strategy itself sends nothing between replicas. An algorithm does that in its exchanges. The
    same code uses gloo on CPUs and NCCL on GPUs. If several ranks share a GPU, it uses gloo, because
    NCCL does not allow that.

    Attributes:
        layout: how the ranks are divided into replicas.
        zero_stage: the stage of ZeRO inside a replica.
        ledger: the count of the messages and bytes that this rank sends.
        clock: the training time of this rank.
        groups: the process groups of this rank.
        reduction: averages the gradients inside the replica. It is None under ZeRO 1 to 3, where
            DeepSpeed does that.

    Args:
        layout: how the ranks are divided into replicas.
        zero_stage: the stage of ZeRO inside a replica, 0 to 3.
        clip_norm: the largest norm of the gradient of a replica, or None for any.
        timeout: how long a collective operation may wait for the other ranks.

    Raises:
        ValueError: `layout` does not have as many ranks as there are processes.
    """

    strategy_name = "paceline"
    comm = dist  # the ledger counts what is sent through this module

    def __init__(
        self,
        layout: Layout,
        zero_stage: int = 0,
        clip_norm: float | None = None,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        super().__init__(
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
        )
        self.layout = layout
        self.ledger = Ledger()
        # Set when this process has found its rank.
        self.clock: Clock
        self.groups: ReplicaGroups
        self.zero_stage, self.clip_norm = zero_stage, clip_norm
        self.reduction: Reduction | None = None
        self._random_state: dict[str, Any] | None = None

    @property
    def root_device(self) -> torch.device:
        if get_accelerator().device_name() == "cuda":
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device("cpu")

    @property
    def task(self) -> nn.Module:
        """The model that the algorithm trains."""
        return self.lightning_module.task  # type: ignore[union-attr, return-value]

    @property
    def replica(self) -> int:
        """The replica that this rank belongs to."""
        return self.layout.replica_of(self.global_rank)

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
        shared = self.root_device.type == "cuda" and self.num_processes > torch.cuda.device_count()
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
        if self.clip_norm is not None:
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

    @contextmanager
    def full_parameters(self) -> Iterator[list[nn.Parameter]]:
        """Yields the complete parameters of this replica's model.

        Under ZeRO 3, each rank keeps only a part of them, and the block gathers them. Gathering is a
        collective operation: every rank of the replica must enter the block.
        """
        parameters = list(self.deepspeed_engine.parameters())
        with deepspeed.zero.GatheredParameters(parameters, enabled=self.zero_stage_3):
            yield parameters

    def release_gathered(self) -> None:
        """Releases the parameters that an evaluation has left gathered under ZeRO 3.

        Otherwise, the next training step would use them without gathering them. Its traffic would then
        be missing from the ledger.
        """
        if self.zero_stage_3:
            self.deepspeed_engine.empty_partition_cache()

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Counts the bytes and the time of the block as an exchange between replicas."""
        with self.ledger.during("exchange"), self.clock.during("exchange"):
            yield

    def state(self) -> State:
        """Returns a copy of the state that replicas exchange: the trained parameters and the buffers.

        Raises:
            NotImplementedError: the stage is ZeRO 3, where no rank holds all parameters.
        """
        self._refuse_zero_3()
        return State.of(groups(self.task, "weights", "buffers"))

    @torch.no_grad()
    def load(self, state: State) -> None:
        """Copies `state` into this replica's model. All ranks of the replica must pass the same state.

        Raises:
            NotImplementedError: the stage is ZeRO 3, where no rank holds all parameters.
        """
        self._refuse_zero_3()
        # In place, because the parameters share their memory with DeepSpeed's buffers.
        state.copy_to(self.task)
        if hasattr(self.deepspeed_engine.optimizer, "refresh_fp32_params"):
            # ZeRO 1 and 2 keep separate copies of the parameters, which their optimizer updates.
            self.deepspeed_engine.optimizer.refresh_fp32_params()

    def _refuse_zero_3(self) -> None:
        if self.zero_stage_3:
            raise NotImplementedError("replicas exchange weights under ZeRO 0 to 2, not under 3")

    def gradients(self) -> State:
        """Returns the gradients of the current step, before the optimizer uses them.

        Raises:
            NotImplementedError: the stage is ZeRO 1 to 3, where DeepSpeed has already consumed them.
        """
        if self.zero_stage:
            raise NotImplementedError("gradients can be had under ZeRO 0 alone")
        gradients: dict[Key, list[Tensor]] = {}
        for parameter in trained(self.task):
            assert parameter.grad is not None
            dense = parameter.grad.to_dense()  # an embedding may have sparse ones
            gradients.setdefault(("weights", parameter.dtype), []).append(dense)
        return State.of(gradients)

    def digest(self) -> bytes:
        """Returns the SHA-256 of all parameters and buffers of this rank's model."""
        with self.full_parameters():
            return digest(self.task)

    def sum_over_replicas(self, tensor: Tensor) -> Tensor:
        """Sums `tensor` over the replicas, in place, and returns it.

        The sum is one all-reduce between the ranks that have the same place in their replicas.
        """
        dist.all_reduce(tensor, group=self.groups.peers)
        return tensor

    def gather_from_replicas(self, tensor: Tensor) -> Tensor:
        """Returns the `tensor` of every replica, stacked to [R, ...].

        They are gathered by one all-gather between the ranks that have the same place in their replicas.
        """
        gathered = tensor.new_empty(self.layout.replicas * tensor.numel())
        dist.all_gather_into_tensor(gathered, tensor.flatten(), group=self.groups.peers)
        return gathered.view(self.layout.replicas, *tensor.shape)

    @contextmanager
    def one_set_of_buffers(self, of_all: bool) -> Iterator[None]:
        """Gives the same buffers to all ranks that evaluate one model, until the block ends.

        A floating-point buffer, such as a running mean, becomes its mean over the ranks of the replica,
        because each rank has seen a part of the batches. A buffer without a mean, such as a counter,
        becomes the one of the first rank.

        Args:
            of_all: if True, all ranks evaluate one model, and the statistics of the replicas are already
                equal. If False, the ranks of each replica evaluate a model of their own.
        """
        found = tensors(self.task, "buffers", "counters")
        own = [buffer.clone() for buffer in found]
        first = 0 if of_all else self.layout.members(self.replica)[0]
        for buffer in tensors(self.task, "buffers"):
            dist.all_reduce(buffer, group=self.groups.replica)
            buffer /= self.layout.ranks
        if counters := tensors(self.task, "counters"):
            # They are sent as bytes, because no backend supports every dtype.
            packed = pack(counters).to(self.root_device)
            dist.broadcast(packed, first, group=None if of_all else self.groups.replica)
            unpack(packed, counters)
        yield
        for buffer, before in zip(found, own, strict=True):
            buffer.copy_(before)

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Returns the mean of a figure over all ranks. The ledger does not count it."""
        total = value.detach().to(self.root_device, torch.float64)
        torch.distributed.all_reduce(total)
        return total / self.world_size

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        if dist.is_initialized():
            dist.barrier()

    def teardown(self) -> None:
        if self.reduction is not None:
            self.reduction.close()
        private.forget_groups()
        super().teardown()
