"""The Lightning strategy that trains every algorithm through DeepSpeed, on CPUs and on GPUs."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

# DeepSpeed chooses its accelerator when it is first imported, and complains where there is no GPU.
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


def keep_off_gpus() -> None:
    """Makes DeepSpeed use the CPU also on a machine with GPUs."""
    set_accelerator(CPU_Accelerator())


class DeepSpeedBackend(DeepSpeedStrategy):
    """Trains each replica as one DeepSpeed data-parallel group; between replicas nothing is sent.

    The same code runs over gloo on CPUs and over NCCL on GPUs. Where ranks share a GPU, which NCCL
    does not allow, it is gloo again.

    Attributes:
        layout: how the ranks are divided into replicas.
        zero_stage: the stage of ZeRO inside a replica.
        ledger: counts what this rank sends.
        clock: the training time of this rank.
        groups: the process groups of this rank.

    Args:
        layout: how the ranks are divided into replicas.
        zero_stage: the stage of ZeRO inside a replica, 0 to 3.
        timeout: how long an operation may wait for the other ranks.

    Raises:
        ValueError: `layout` does not cover the world of the process.
    """

    strategy_name = "paceline"
    comm = dist  # through which all is sent that the ledger counts

    def __init__(
        self,
        layout: Layout,
        zero_stage: int = 0,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        super().__init__(
            config={
                "zero_allow_untested_optimizer": True,
                "zero_optimization": {"stage": zero_stage, "overlap_comm": False},
                "train_micro_batch_size_per_gpu": 1,  # used only for DeepSpeed's own logging
                "gradient_clipping": 0.0,  # DeepSpeed's default is to clip at 1
                # One tag a replica: otherwise every replica writes the same files.
                "checkpoint": {"tag_validation": "Ignore"},
            },
            timeout=timeout,
        )
        self.layout = layout
        self.ledger = Ledger()
        # Known once this process has found its rank.
        self.clock: Clock
        self.groups: ReplicaGroups
        self.zero_stage = zero_stage
        self._rng_state: torch.Tensor | None = None

    @property
    def root_device(self) -> torch.device:
        if get_accelerator().device_name() == "cuda":
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device("cpu")

    @property
    def replica(self) -> int:
        """The replica that this rank belongs to."""
        return self.layout.replica_of(self.global_rank)

    def setup_environment(self) -> None:
        # Lightning's own strategy refuses every accelerator but CUDA here, and nothing else.
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        private.no_shared_memory_build()
        if self.root_device.type == "cuda":
            torch.cuda.set_device(self.root_device)
        self.clock = Clock(self.root_device)
        self._init_deepspeed_distributed()
        self.ledger.attach(private.communication_backend())
        self.groups = ReplicaGroups(self.layout, self.global_rank)

    def setup(self, trainer: Trainer) -> None:
        # Before every step, Lightning broadcasts from rank 0 to the world whether it was told to
        # end. No algorithm asks for that, and it keeps replicas in step that should run free.
        private.no_broadcast_before_steps(trainer)
        super().setup(trainer)

    def _get_process_group_backend(self) -> str:
        shared = self.root_device.type == "cuda" and self.num_processes > torch.cuda.device_count()
        return "gloo" if shared else super()._get_process_group_backend()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
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
        if self.zero_stage_3:
            # DeepSpeed leaves the parameters in a fresh Adagrad, alone of all optimizers, and on
            # loading a checkpoint adds them a second time.
            private.release_parameters_of(engine_optimizer)
        return engine, engine_optimizer

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Writes the state of every replica, each under a tag of its own, into folder `filepath`."""
        state = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
        folder = self.broadcast(filepath)
        with self.ledger.during("checkpoint"):
            self.deepspeed_engine.save_checkpoint(
                str(folder), self._tag, client_state=state, save_latest=False
            )
        torch.save(get_accelerator().get_rng_state(), self._rng_file(folder))

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads this replica's part of a checkpoint and returns Lightning's state.

        Raises:
            FileNotFoundError: the folder holds no state of this replica.
        """
        if not self._rng_file(checkpoint_path).is_file():
            raise FileNotFoundError(f"{checkpoint_path}: no checkpoint of {self._tag} in it")
        with self.ledger.during("checkpoint"):
            _, state = self.deepspeed_engine.load_checkpoint(
                str(checkpoint_path), self._tag, load_lr_scheduler_states=False
            )
        self._rng_state = torch.load(self._rng_file(checkpoint_path))
        return dict(state)

    def on_train_start(self) -> None:
        # Only now: Lightning draws random numbers of its own when it sets up the data.
        if self._rng_state is not None:
            get_accelerator().set_rng_state(self._rng_state)
            self._rng_state = None

    def _rng_file(self, folder: str | Path) -> Path:
        # DeepSpeed has no place for what differs between the ranks of a replica: their dropout.
        return Path(folder) / self._tag / f"rng_state_rank_{self.global_rank}.pt"

    @property
    def _tag(self) -> str:
        return f"replica_{self.replica}"

    @contextmanager
    def full_parameters(self) -> Iterator[list[nn.Parameter]]:
        """The parameters of this replica's model, whole also where ZeRO 3 keeps a part on each rank.

        Every rank of the replica must enter, as gathering them is collective.
        """
        parameters = list(self.deepspeed_engine.parameters())
        with deepspeed.zero.GatheredParameters(parameters, enabled=self.zero_stage_3):
            yield parameters

    def release_gathered(self) -> None:
        """Under ZeRO 3, gives up the parameters that an evaluation has left gathered.

        The next step of training would find them there, and their traffic would be nobody's.
        """
        if self.zero_stage_3:
            self.deepspeed_engine.empty_partition_cache()

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """Books what the block sends and the time it takes as an exchange between replicas."""
        with self.ledger.during("exchange"), self.clock.during("exchange"):
            yield

    def weights(self) -> Tensor:
        """A copy of this replica's trained parameters as one vector [P]."""
        with self.full_parameters() as parameters:
            return torch.cat([p.detach().flatten() for p in parameters if p.requires_grad])

    def load_weights(self, weights: Tensor) -> None:
        """Overwrites this replica's trained parameters; every rank of the replica calls it alike.

        Raises:
            NotImplementedError: under ZeRO 3, where no rank holds the parameters.
        """
        if self.zero_stage_3:
            raise NotImplementedError("replicas exchange weights under ZeRO 0 to 2, not under 3")
        trained = [p for p in self.deepspeed_engine.parameters() if p.requires_grad]
        # In place, as DeepSpeed's buffers and the parameters are one memory.
        for parameter, part in zip(
            trained, weights.split([p.numel() for p in trained]), strict=True
        ):
            parameter.data.copy_(part.view_as(parameter))
        if hasattr(self.deepspeed_engine.optimizer, "refresh_fp32_params"):
            # ZeRO 1 and 2 step on copies of the parameters that they keep apart.
            self.deepspeed_engine.optimizer.refresh_fp32_params()

    def gradients(self) -> Tensor:
        """The gradients of the step at hand as one vector [P], before the optimizer has used them.

        Raises:
            NotImplementedError: under ZeRO 1 to 3, where DeepSpeed has consumed them already.
        """
        if self.zero_stage:
            raise NotImplementedError("gradients can be had under ZeRO 0 alone")
        return torch.cat(
            [p.grad.flatten() for p in self.deepspeed_engine.parameters() if p.requires_grad]
        )

    def sum_over_replicas(self, vector: Tensor) -> Tensor:
        """The sum of `vector` over the replicas, by one all-reduce between the ranks of one place."""
        total = vector.clone()
        dist.all_reduce(total, group=self.groups.peers)
        return total

    def gather_from_replicas(self, tensor: Tensor) -> Tensor:
        """The `tensor` of every replica, [R, ...], by one all-gather between the ranks of one place."""
        gathered = tensor.new_empty(self.layout.replicas * tensor.numel())
        dist.all_gather_into_tensor(gathered, tensor.flatten(), group=self.groups.peers)
        return gathered.view(self.layout.replicas, *tensor.shape)

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """The mean of a figure over all ranks; measuring, and so not in the ledger."""
        total = value.detach().to(self.root_device, torch.float64)
        torch.distributed.all_reduce(total)
        return total / self.world_size

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        if dist.is_initialized():
            dist.barrier()

    def teardown(self) -> None:
        private.forget_groups()
        super().teardown()
