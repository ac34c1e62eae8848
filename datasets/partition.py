"""Which example goes to which rank at which step."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class BatchStream(Sampler[np.ndarray]):
    """An endless stream of batches for one rank, the same global order whatever the world's size.

    The examples are shuffled anew each epoch and the epochs follow one another without a gap, so that
    every batch is full. Step s takes `world_size * batch_size` examples of that order; rank r gets
    the r-th slice. N ranks with batch b thus see together, at each step, what one rank with batch
    N b sees.

    Args:
        examples: size of the training set.
        batch_size: examples a rank takes at each step.
        rank: this rank.
        world_size: all ranks.
        seed: of the order.
        start_step: the step to begin with, where training is resumed.

    Raises:
        ValueError: the training set is empty.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        start_step: int = 0,
    ) -> None:
        if examples < 1:
            raise ValueError("the training set is empty")
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.rank, self.world_size, self.start_step = rank, world_size, start_step

    def __iter__(self) -> Iterator[np.ndarray]:
        position = self.batch_size * (self.start_step * self.world_size + self.rank)
        epoch, order = -1, np.empty(0, dtype=np.int64)
        while True:
            taken, cursor = [], position
            while cursor < position + self.batch_size:
                if cursor // self.examples != epoch:
                    epoch = cursor // self.examples
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.examples)
                offset = cursor % self.examples
                taken.append(order[offset : offset + position + self.batch_size - cursor])
                cursor += len(taken[-1])
            yield taken[0] if len(taken) == 1 else np.concatenate(taken)
            position += self.batch_size * self.world_size
