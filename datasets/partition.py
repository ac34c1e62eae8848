"""How the training examples are divided among the replicas."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
DRAWS = 100  # attempts at a Dirichlet partition in which every replica has an example


@dataclass(frozen=True)
class Partition:
    """How the training examples are divided among R replicas.

    Kinds:

    - `iid`: all examples are in one order, and its batches are dealt to the ranks of all replicas. In
      each epoch, every example is seen once, by one of the ranks.
    - `shared`: every replica sees all examples, in its own order.
    - `same`: every replica sees the same batches.
    - `disjoint`: every replica gets its own random part. The sizes differ by at most one example.
    - `labels`: the examples are sorted by label and cut into `shards` x R parts. Every replica gets
      `shards` of them, drawn at random. This is the pathological non-IID partition of McMahan et al.
      (2016), section 3.
    - `dirichlet`: the examples of each label are divided in proportions drawn from Dir(`alpha`) (Hsu et
      al. 2019). With a small `alpha`, each replica has nearly one label. With a large `alpha`, the label
      distributions are similar. The parts have different sizes.

    Args:
        kind: the kind of partition.
        shards: the number of parts that a replica gets, for `labels`.
        alpha: the concentration of the Dirichlet distribution, for `dirichlet`.
    """

    kind: Literal["iid", "shared", "same", "disjoint", "labels", "dirichlet"] = "iid"
    shards: int = 2
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise ValueError(f"partition.shards must be at least 1, not {self.shards}")
        if not self.alpha > 0:
            raise ValueError(f"partition.alpha must be positive, not {self.alpha}")

    @property
    def needs_labels(self) -> bool:
        return self.kind in ("labels", "dirichlet")

    def parts(
        self, examples: int, replicas: int, seed: int, labels: NDArray[np.generic] | None = None
    ) -> list[Rows]:
        """Returns the row numbers of each replica. No replica has an empty part.

        Args:
            examples: the size of the training set.
            replicas: the number of parts.
            seed: the seed of the partition.
            labels: the labels [examples], needed for the kinds `labels` and `dirichlet`.

        Raises:
            ValueError: there are too few examples, or a Dirichlet draw leaves a replica without
                examples.
        """
        generator = np.random.default_rng(seed)
        if not self.divides or replicas == 1:
            parts = [np.arange(examples)] * replicas
        elif self.kind == "disjoint":
            parts = np.array_split(generator.permutation(examples), replicas)
        elif self.kind == "labels":
            # Shuffled before the stable sort, so that a shard is a random part of the label's examples.
            order = generator.permutation(examples)
            order = order[np.argsort(_one_per_row(labels, examples)[order], kind="stable")]
            shards = np.array_split(order, self.shards * replicas)
            dealt = generator.permutation(len(shards)).reshape(replicas, self.shards)
            parts = [np.concatenate([shards[i] for i in own]) for own in dealt]
        else:
            parts = self._dirichlet(_one_per_row(labels, examples), replicas, generator)
        if not all(len(part) for part in parts):
            raise ValueError(
                f"partition {self.kind}: {examples} examples leave one of {replicas} replicas none"
            )
        return parts

    @property
    def divides(self) -> bool:
        """Whether each replica gets its own part of the examples."""
        return self.kind in ("disjoint", "labels", "dirichlet")

    def _dirichlet(
        self, labels: NDArray[np.generic], replicas: int, generator: np.random.Generator
    ) -> list[Rows]:
        for _ in range(DRAWS):
            parts: list[list[Rows]] = [[] for _ in range(replicas)]
            for label in np.unique(labels):
                rows = generator.permutation(np.flatnonzero(labels == label))
                shares = generator.dirichlet(np.full(replicas, self.alpha))
                cuts = np.round(shares.cumsum()[:-1] * len(rows)).astype(int)
                for part, own in zip(parts, np.split(rows, cuts), strict=True):
                    part.append(own)
            joined = [np.concatenate(part) for part in parts]
            if all(len(part) for part in joined):
                break
        return joined


def _one_per_row(labels: NDArray[np.generic] | None, examples: int) -> NDArray[np.generic]:
    if labels is None or labels.shape != (examples,):
        shape = None if labels is None else labels.shape
        raise ValueError(f"a partition by labels needs one label an example, not shape {shape}")
    return labels
