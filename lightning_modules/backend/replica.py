"""What algorithms ask of the strategy: the state of a replica, and operations between replicas."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# DeepSpeed chooses its accelerator when it is first imported. Without a GPU, it would print a warning.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# ruff: isort: split
import deepspeed
import deepspeed.comm as dist
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor, nn

from paceline.lightning_modules.backend.clock import Clock
from paceline.lightning_modules.backend.groups import ReplicaGroups
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import Ledger
from paceline.lightning_modules.backend.state import (
    State,
    digest,
    groups,
    pack,
    tensors,
    trained,
    unpack,
)


class ReplicaStrategy(DeepSpeedStrategy):
    """The part of the strategy that algorithms use.

    Attributes:
        comm: the module through which everything is sent that the ledger counts.
        layout: how the ranks are divided into replicas.
        zero_stage: the stage of ZeRO inside a replica.
        ledger: the count of the messages and bytes that this rank sends.
        clock: the training time of this rank. It is set when the process has found its rank.
        groups: the process groups of this rank. They are set when the process has found its rank.
    """

    comm = dist
    layout: Layout
    zero_stage: int
    ledger: Ledger
    clock: Clock
    groups: ReplicaGroups

    @property
    def task(self) -> nn.Module:
        """The model that the algorithm trains."""
        return self.lightning_module.task  # type: ignore[union-attr, return-value]

    @property
    def replica(self) -> int:
        """The replica that this rank belongs to."""
        return self.layout.replica_of(self.global_rank)

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

    def gradients(self) -> list[Tensor]:
        """Returns the gradients of the current step, in the order of `trained`, without a copy.

        Sparse ones, which an embedding may have, become dense.

        Raises:
            NotImplementedError: the stage is ZeRO 1 to 3, where DeepSpeed has already consumed them.
        """
        if self.zero_stage:
            raise NotImplementedError("gradients can be had under ZeRO 0 alone")
        found = []
        for parameter in trained(self.task):
            assert parameter.grad is not None
            parameter.grad = parameter.grad.to_dense()
            found.append(parameter.grad)
        return found

    def digest(self) -> bytes:
        """Returns the SHA-256 of all parameters and buffers of this rank's model."""
        with self.full_parameters():
            return digest(self.task)

    def sum_over_replicas(self, tensor: Tensor) -> Tensor:
        """Sums `tensor` over the replicas, in place, and returns it.

        The sum is one all-reduce between the ranks that have the same place in their replicas.
        """
        if self.layout.replicas > 1:
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
