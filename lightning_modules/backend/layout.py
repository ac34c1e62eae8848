"""How the ranks of a trial are divided into replicas."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The division of the ranks into replicas.

    A replica is a full copy of the model that `ranks` ranks train synchronously. There are `replicas`
    of them. Replica i consists of the consecutive ranks [i * ranks, (i + 1) * ranks). On several nodes,
    the ranks of a replica are therefore next to each other.
    """

    replicas: int
    ranks: int

    @classmethod
    def of_replicas(cls, workers: int, ranks: int) -> "Layout":
        """Returns the layout of `workers` ranks in replicas of `ranks` ranks each.

        Raises:
            ValueError: `workers` is not a multiple of `ranks`, or `ranks` is less than 1.
        """
        if ranks < 1 or workers % ranks:
            raise ValueError(f"{workers} workers cannot form replicas of {ranks} ranks")
        return cls(workers // ranks, ranks)

    @property
    def world_size(self) -> int:
        return self.replicas * self.ranks

    def check_fits(self, world_size: int) -> None:
        """Checks that the layout has exactly `world_size` ranks.

        Raises:
            ValueError: the layout has another number of ranks.
        """
        if self.world_size != world_size:
            raise ValueError(
                f"the layout of {self.replicas} replicas x {self.ranks} ranks"
                f" does not fit a world of {world_size}"
            )

    def replica_of(self, rank: int) -> int:
        return rank // self.ranks

    def members(self, replica: int) -> list[int]:
        """Returns the ranks of one replica."""
        return list(range(replica * self.ranks, (replica + 1) * self.ranks))

    def peers(self, place: int) -> list[int]:
        """Returns the ranks that have the same place in every replica. An exchange is between them."""
        return list(range(place, self.world_size, self.ranks))
