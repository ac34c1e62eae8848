"""Which example goes to which rank at which step."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from paceline.datasets.partition import Rows


def collate(batch: Any) -> Any:
    """Passes on the batch that `__getitems__` has already made."""
    return batch


class PlainNumbers:
    """Batches of row numbers as lists of Python integers, which is what datasets are written for."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield np.asarray(batch).tolist()


def with_batches(loader: DataLoader[Any], batches: Any) -> DataLoader[Any]:
    """The loader of a data module, with these batches of row numbers in place of its own."""
    return DataLoader(
        loader.dataset,
        batch_sampler=PlainNumbers(batches),
        collate_fn=loader.collate_fn,
        # Else each pass over it draws from the random numbers that dropout goes on with.
        generator=torch.Generator(),
    )


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
