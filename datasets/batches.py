"""The order of the training examples: which rank gets which example at which step."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from paceline.datasets.partition import Rows


def collate(batch: Any) -> Any:
    """Returns `batch` unchanged, because `__getitems__` has already made the batch."""
    return batch


class PlainNumbers:
    """Batches of row numbers, converted to lists of Python integers, which any dataset accepts.

    Args:
        batches: the batches.
        parts: the number of equal parts that each batch is divided into.
    """

    def __init__(self, batches: Any, parts: int = 1) -> None:
        self.batches, self.parts = batches, parts

    def __len__(self) -> int:
        return len(self.batches) * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            for part in np.split(np.asarray(batch), self.parts):
                yield part.tolist()


def with_batches(loader: DataLoader[Any], batches: Any, parts: int = 1) -> DataLoader[Any]:
    """Returns a copy of a data module's loader that loads these batches of row numbers.

    Each batch is loaded in `parts` equal parts.
    """
    return DataLoader(
        loader.dataset,
        batch_sampler=PlainNumbers(batches, parts),
        collate_fn=loader.collate_fn,
        # Otherwise, each pass would draw from torch's global generator, which dropout uses.
        generator=torch.Generator(),
    )


class BatchOrder:
    """An endless shuffled order of rows, cut into batches of equal size.

    The rows are shuffled again for each epoch. A batch can contain the end of one epoch and the start of
    the next.

    Args:
        rows: the row numbers, or the number of rows.
        batch_size: the number of examples per batch.
        seed: the seed of the order.

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
        """Returns the row numbers [batch_size] of batch `number`, counted from 0."""
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
    """The batches of one rank. Each iteration yields the batches up to the next evaluation.

    Several ranks can share an order. At each step, they take its next batches: the rank with place r
    takes the r-th of them. So N ranks with batch size b together see the same examples at each step as
    one rank with batch size N b.

    Args:
        order: the order that the batches come from.
        place: the place of this rank among the ranks that share the order, counted from 0.
        sharers: the number of ranks that share the order.
        every: the number of steps between two evaluations.
    """

    def __init__(self, order: BatchOrder, place: int = 0, sharers: int = 1, every: int = 1) -> None:
        self.order, self.place, self.sharers, self.every = order, place, sharers, every
        self.segment = self.step = 0

    def go_on(self, step: int, evaluations: int) -> int:
        """Continues after `step` steps when training is resumed.

        Args:
            step: the number of steps that this rank has taken.
            evaluations: the number of completed evaluations, without the current one.

        Returns:
            The number of the segment that training continues in. A segment ends with an evaluation.
        """
        self.step, self.segment = step, step // self.every
        return self.segment

    def begin(self) -> None:
        """Does what every rank has to do before any rank takes a batch."""

    def __iter__(self) -> Iterator[Rows]:
        stop = (self.segment + 1) * self.every
        self.segment += 1
        while self.step < stop:
            number = self.step * self.sharers + self.place
            self.step += 1
            yield self.order.batch(number)


class TicketStream(BatchStream):
    """The batches of a rank of an asynchronous algorithm. The first free rank takes the next batch.

    All ranks draw tickets from one counter, and a ticket allows one step. A fast rank therefore takes
    more batches than a slow one. Together, the ranks take as many batches as synchronous ranks would.
    If a rank draws a ticket beyond the end of the segment, it keeps the ticket for the next segment.
    Every rank draws its first ticket before any rank trains, so every rank has a batch in every segment.

    Args:
        order: the order that the batches come from.
        draw: returns the next ticket for this rank. Tickets are counted over all ranks, from the number
            that it is given.
        own: if True, this rank alone uses the order. If False, the ticket is the number of the batch.
        workers: the number of ranks that draw.
        every: the number of steps between two evaluations, as a mean over the ranks.
    """

    def __init__(
        self, order: BatchOrder, draw: Callable[[int], int], own: bool, workers: int, every: int
    ) -> None:
        super().__init__(order, sharers=workers, every=every)
        self.draw, self.own = draw, own
        self.first, self.held = 0, -1

    def begin(self) -> None:
        if self.held < 0:
            self.held = self.draw(self.first)

    def go_on(self, step: int, evaluations: int) -> int:
        # Asynchronous ranks can be saved together only at an evaluation.
        self.step, self.segment = step, evaluations + 1
        self.first = self.segment * self.every * self.sharers
        return self.segment

    def __iter__(self) -> Iterator[Rows]:
        stop = (self.segment + 1) * self.every * self.sharers
        self.segment += 1
        while True:
            self.begin()
            if self.held >= stop:
                return
            number = self.step if self.own else self.held
            self.held = -1
            self.step += 1
            yield self.order.batch(number)
