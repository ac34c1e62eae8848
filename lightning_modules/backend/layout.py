"""How the ranks of a trial are divided into replicas."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """`replicas` full copies of the model, each trained synchronously by `ranks` ranks.

    Replica i holds the consecutive ranks [i * ranks, (i + 1) * ranks), so that on several nodes the
    ranks of a replica sit next to each other.
    """

    replicas: int
    ranks: int

    @classmethod
    def of_replicas(cls, workers: int, ranks: int) -> "Layout":
        """`workers` ranks in replicas of `ranks` each.

        Raises:
            ValueError: they do not come out even.
        """
        if ranks < 1 or workers % ranks:
            raise ValueError(f"{workers} workers cannot form replicas of {ranks} ranks")
        return cls(workers // ranks, ranks)

    @property
    def world_size(self) -> int:
        return self.replicas * self.ranks

    def check_fits(self, world_size: int) -> None:
        """Refuses a world of another size.

        Raises:
            ValueError: there are more ranks, or fewer, than the layout has places for.
        """
        if self.world_size != world_size:
            raise ValueError(
                f"the layout of {self.replicas} replicas x {self.ranks} ranks"
                f" does not fit a world of {world_size}"
            )

    def replica_of(self, rank: int) -> int:
        return rank // self.ranks

    def members(self, replica: int) -> list[int]:
        """The ranks of one replica."""
        return list(range(replica * self.ranks, (replica + 1) * self.ranks))

    def peers(self, place: int) -> list[int]:
        """The ranks that hold the same place in every replica: those between which it exchanges."""
        return list(range(place, self.world_size, self.ranks))
