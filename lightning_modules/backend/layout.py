"""How the ranks of a trial are divided into replicas, and the process groups that follow."""

from dataclasses import dataclass
from typing import Any

import deepspeed.comm as dist


@dataclass(frozen=True)
class Layout:
    """`replicas` full copies of the model, each trained synchronously by `ranks` ranks.

    Replica i holds the consecutive ranks [i * ranks, (i + 1) * ranks), so that on several nodes the
    ranks of a replica sit next to each other.
    """

    replicas: int
    ranks: int

    @property
    def world_size(self) -> int:
        return self.replicas * self.ranks

    def replica_of(self, rank: int) -> int:
        return rank // self.ranks

    def members(self, replica: int) -> list[int]:
        """The ranks of one replica."""
        return list(range(replica * self.ranks, (replica + 1) * self.ranks))

    def peers(self, place: int) -> list[int]:
        """The ranks that hold the same place in every replica: those between which it exchanges."""
        return list(range(place, self.world_size, self.ranks))


class ReplicaGroups:
    """The process groups of one rank, in the form that `deepspeed.initialize(mpu=...)` asks for.

    Attributes:
        replica: the group of this rank's replica: DeepSpeed's data-parallel group.
        peers: the group of the ranks at this rank's place in every replica.
        alone: the group of this rank only: DeepSpeed's model-parallel group, of size 1.
    """

    def __init__(self, layout: Layout, rank: int) -> None:
        # Creating a group is collective: every rank creates all of them, in the same order.
        members = [
            *(layout.members(replica) for replica in range(layout.replicas)),
            *(layout.peers(place) for place in range(layout.ranks)),
            *([other] for other in range(layout.world_size)),
        ]
        groups = {ranks: dist.new_group(list(ranks)) for ranks in dict.fromkeys(map(tuple, members))}
        self.layout, self.rank = layout, rank
        self.replica = groups[tuple(layout.members(layout.replica_of(rank)))]
        self.peers = groups[tuple(layout.peers(rank % layout.ranks))]
        self.alone = groups[(rank,)]

    def get_data_parallel_group(self) -> Any:
        return self.replica

    def get_data_parallel_rank(self) -> int:
        return self.rank % self.layout.ranks

    def get_data_parallel_world_size(self) -> int:
        return self.layout.ranks

    def get_model_parallel_group(self) -> Any:
        return self.alone

    def get_model_parallel_rank(self) -> int:
        return 0

    def get_model_parallel_world_size(self) -> int:
        return 1
