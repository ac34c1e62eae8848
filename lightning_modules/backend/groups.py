"""The process groups of a rank, which follow from the layout of the trial."""

from typing import Any

import deepspeed.comm as dist

from paceline.lightning_modules.backend.layout import Layout


class ReplicaGroups:
    """The process groups of one rank, in the form that `deepspeed.initialize(mpu=...)` expects.

    Attributes:
        replica: the group of the ranks of this replica. It is DeepSpeed's data-parallel group.
        peers: the group of the ranks that have the same place as this rank in their replicas.
        alone: the group of this rank only. It is DeepSpeed's model-parallel group, of size 1.
    """

    def __init__(self, layout: Layout, rank: int) -> None:
        # Creating a group is collective: every rank creates all of them, in the same order.
        members = [
            *(layout.members(replica) for replica in range(layout.replicas)),
            *(layout.peers(place) for place in range(layout.ranks)),
            *([other] for other in range(layout.world_size)),
        ]
        groups = {
            ranks: dist.new_group(list(ranks)) for ranks in dict.fromkeys(map(tuple, members))
        }
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
