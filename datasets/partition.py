"""Which example goes to which rank at which step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Rows = NDArray[np.int64]
DRAWS = 100  # of a Dirichlet partition, until every replica has an example


@dataclass(frozen=True)
class Partition:
    """How the training examples are divided among R replicas.

    Kinds:

    - `iid`: one order of all examples, dealt to the ranks of all replicas batch by batch: at each epoch
      every example is seen once, by one of them.
    - `shared`: every replica goes over all examples, in an order of its own.
    - `same`: every replica sees the same batches.
    - `disjoint`: every replica keeps a random part of its own, of the same size up to one example.
    - `labels`: the examples sorted by label and cut into `shards` R parts, of which every replica keeps
      `shards` drawn at random (McMahan et al. 2016, section 3, pathological non-IID).
    - `dirichlet`: each label's examples are divided in proportions drawn from Dir(`alpha`) (Hsu et al.
      2019): nearly one label a replica for a small `alpha`, alike for a large one, of unequal sizes.
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
        """The rows of each replica, none of them empty.

        Args:
            examples: size of the training set.
            replicas: how many parts.
            seed: of the partition.
            labels: [examples], for the kinds that go by labels.

        Raises:
            ValueError: there are too few examples, or a Dirichlet draw leaves a replica none.
        """
        generator = np.random.default_rng(seed)
        if not self.divides or replicas == 1:
            parts = [np.arange(examples)] * replicas
        elif self.kind == "disjoint":
            parts = np.array_split(generator.permutation(examples), replicas)
        elif self.kind == "labels":
            # Shuffled before the stable sort, so that a shard is a random part of its label.
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
        """Whether each replica keeps a part of its own."""
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


class BatchOrder:
    """The endless order in which some rows are seen, cut into batches that are all full.

    The rows are shuffled anew each epoch and the epochs follow one another without a gap.

    Args:
        rows: the rows, or how many there are.
        batch_size: examples a batch.
        seed: of the order.

    Raises:
        ValueError: there are no rows.
    """

    def __init__(self, rows: Rows | int, batch_size: int, seed: int = 0) -> None:
        self.rows = np.arange(rows) if isinstance(rows, int) else rows
        if not len(self.rows):
            raise ValueError("the training set is empty")
        self.batch_size, self.seed = batch_size, seed
        self._epoch, self._shuffled = -1, self.rows

    def batch(self, number: int) -> Rows:
        """Batch `number` [batch_size] of the order, counted from 0."""
        cursor, stop = number * self.batch_size, (number + 1) * self.batch_size
        taken = []
        while cursor < stop:
            epoch, offset = divmod(cursor, len(self.rows))
            if epoch != self._epoch:
                generator = np.random.default_rng((self.seed, epoch))
                self._epoch, self._shuffled = epoch, generator.permutation(self.rows)
            taken.append(self._shuffled[offset : offset + stop - cursor])
            cursor += len(taken[-1])
        return taken[0] if len(taken) == 1 else np.concatenate(taken)


class BatchStream(Sampler[Rows]):
    """The batches of one rank; each iteration yields those up to the next evaluation.

    At step s the ranks that share an order take its next batches, the one with place r the r-th of
    them. N ranks with batch b thus see together, at each step, what one rank with batch N b sees.

    Args:
        order: where the batches come from.
        place: of this rank among those that share the order.
        sharers: how many they are.
        every: steps between two evaluations.
    """

    def __init__(self, order: BatchOrder, place: int = 0, sharers: int = 1, every: int = 1) -> None:
        self.order, self.place, self.sharers, self.every = order, place, sharers, every
        self.segment = self.step = 0

    def go_on(self, step: int, evaluations: int) -> int:
        """Goes on after `step` steps, where training is resumed; the number of the segment it is in.

        `evaluations` have been had, or had but for the one at hand.
        """
        self.step, self.segment = step, step // self.every
        return self.segment

    def __iter__(self) -> Iterator[Rows]:
        stop = (self.segment + 1) * self.every
        self.segment += 1
        while self.step < stop:
            number = self.step * self.sharers + self.place
            self.step += 1
            yield self.order.batch(number)


class TicketStream(BatchStream):
    """The batches of a rank that does not wait for the others: whoever is free takes the next one.

    All ranks draw from one row of tickets, so that a fast rank takes more batches than a slow one, and
    together they take as many as ranks in step would. The ticket that a rank draws beyond the end of a
    segment it keeps for the next.

    Args:
        order: where the batches come from.
        draw: gives this rank the next ticket, counted from 0 over all ranks.
        own: whether the order is this rank's alone; otherwise the ticket is the number of the batch.
        workers: how many ranks draw.
        every: steps between two evaluations, the mean over the ranks.
    """

    def __init__(
        self, order: BatchOrder, draw: Callable[[], int], own: bool, workers: int, every: int
    ) -> None:
        super().__init__(order, sharers=workers, every=every)
        self.draw, self.own = draw, own
        self.first, self.held = 0, -1

    def go_on(self, step: int, evaluations: int) -> int:
        # Ranks that run free can be saved together at an evaluation alone.
        self.step, self.segment = step, evaluations + 1
        self.first = self.segment * self.every * self.sharers
        return self.segment

    def __iter__(self) -> Iterator[Rows]:
        stop = (self.segment + 1) * self.every * self.sharers
        self.segment += 1
        while True:
            if self.held < 0:
                self.held = self.first + self.draw()
            if self.held >= stop:
                return
            number = self.step if self.own else self.held
            self.held = -1
            self.step += 1
            yield self.order.batch(number)
