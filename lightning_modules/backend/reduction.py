"""Averages the gradients of a replica's ranks under ZeRO 0, while backward still computes others.

    g = sum_i g_i / N          over the N ranks of a replica, after the backward of every step

Gradients are collected in flat buckets, because one large message costs less than many small ones. The
buckets are in the order in which backward usually reaches the parameters, which is the reverse of their
order in the model. As soon as a bucket is full, its all-reduce starts. It runs beside backward.

Every rank starts its buckets in the same order, even if they fill in another order. Otherwise, ranks
would add buckets that do not belong together. When backward has ended, the remaining buckets are started
with zeros for the gradients that are missing.

Each gradient is divided by N before the sum, as torch's DistributedDataParallel does. With the same
buckets, the means are bitwise equal to its means.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import deepspeed.comm as dist
import torch
from torch import Tensor, nn

BUCKET_BYTES = 4 * 2**20  # an all-reduce of this size takes long compared with its latency


class Bucket:
    """The gradients of some parameters of one dtype, in one flat tensor.

    Attributes:
        flat: the gradients, one after the other.
        views: the gradient of each parameter, as a view of `flat` in the shape of the parameter.
        missing: the number of gradients that have not arrived in this step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        sizes = [parameter.numel() for parameter in parameters]
        self.flat = parameters[0].detach().new_zeros(sum(sizes))
        pieces = zip(self.flat.split(sizes), parameters, strict=True)
        self.views = [piece.view_as(parameter) for piece, parameter in pieces]
        self.missing = len(parameters)

    def put(self, parameter: Tensor, view: Tensor, ranks: int) -> None:
        """Moves the gradient of a parameter into its place, divided by the number of ranks.

        A gradient that is missing becomes zero.
        """
        if parameter.grad is None:
            view.zero_()
        else:
            torch.mul(parameter.grad.to_dense(), 1 / ranks, out=view)
        parameter.grad = view

    def complete(self, ranks: int) -> None:
        """Moves the gradients that this backward has not computed into their places.

        They are missing, or they were accumulated by an earlier backward of the step.
        """
        for parameter, view in zip(self.parameters, self.views, strict=True):
            if parameter.grad is not view:
                self.put(parameter, view, ranks)


class Reduction:
    """Replaces the gradients of some parameters with their means over the ranks of a replica.

    Every gradient must be None when the first backward of a step begins. After `finish`, every gradient
    is a tensor. If a parameter has no gradient on some ranks, these ranks count as zero. If it has none
    on any rank, the mean is zero. torch's DistributedDataParallel would leave it None, but it needs
    another all-reduce to find out.

    If gradients are accumulated over several backwards, `accumulating` is set before all but the last.
    Gradients then stay with their parameters, and only the sums are sent.

    Sparse gradients become dense. With one rank, the gradients stay what backward has made. They are
    neither copied nor sent.

    Args:
        parameters: the parameters, in the order of the model. It is the same on all ranks.
        group: the process group of the replica.
        ranks: N, the number of ranks in the group.
        bucket_bytes: a bucket is full when it has at least this size.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        group: Any,
        ranks: int,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.parameters, self.group, self.ranks = parameters, group, ranks
        self.buckets = _buckets(parameters, bucket_bytes) if ranks > 1 else []
        self.accumulating = False
        self._under_way: list[Any] = []  # the all-reduces of the first buckets, in order
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._collect, bucket, view))
            for bucket in self.buckets
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True)
        ]

    def _collect(self, bucket: Bucket, view: Tensor, parameter: Tensor) -> None:
        """Moves a new gradient into its bucket, and starts all buckets whose turn it is."""
        assert parameter.grad is not None
        if self.accumulating:
            return
        if parameter.grad is view:
            raise RuntimeError(
                f"a parameter of shape {tuple(parameter.shape)} received two gradients in one step:"
                " under ZeRO 0, use checkpointing with use_reentrant=False"
            )
        bucket.put(parameter, view, self.ranks)
        bucket.missing -= 1
        for full in self.buckets[len(self._under_way) :]:
            if full.missing:
                break
            self._start(full)

    def _start(self, bucket: Bucket) -> None:
        self._under_way.append(dist.all_reduce(bucket.flat, group=self.group, async_op=True))

    def finish(self) -> None:
        """Waits until every gradient is the mean over the ranks. It is called when backward has ended."""
        for bucket in self.buckets[len(self._under_way) :]:
            bucket.complete(self.ranks)
            self._start(bucket)
        for bucket, work in zip(self.buckets, self._under_way, strict=True):
            work.wait()
            bucket.missing = len(bucket.parameters)
        self._under_way.clear()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def close(self) -> None:
        """Leaves the parameters, so that later gradients of theirs stay where they are."""
        for hook in self._hooks:
            hook.remove()


def _buckets(parameters: Sequence[nn.Parameter], bucket_bytes: int) -> list[Bucket]:
    """Divides parameters into buckets, from the last to the first."""
    found: list[Bucket] = []
    filling: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in reversed(parameters):
        group = filling.setdefault(parameter.dtype, [])
        group.append(parameter)
        if sum(member.nbytes for member in group) >= bucket_bytes:
            found.append(Bucket(filling.pop(parameter.dtype)))
    return found + [Bucket(group) for group in filling.values()]
