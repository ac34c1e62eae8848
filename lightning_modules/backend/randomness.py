"""The global random generators of `random`, NumPy and torch."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# The seed for building data. It is the same for all trials of a workload, whatever their own seeds. A
# random split is therefore the same in all of them, and retrains are compared on the same rows.
OF_DATA = 0


def seed(number: int) -> None:
    """Seeds all three generators with a number below 2^32."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Seeds all three generators for the block, and then restores their states."""
    before = state()
    seed(number)
    yield
    restore(before)


def state() -> dict[str, Any]:
    """Returns the states of all three generators, including that of the current GPU."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "gpu": gpu,
    }


def restore(state: dict[str, Any]) -> None:
    """Restores the states of all three generators."""
    random.setstate(state["random"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["gpu"] is not None:
        torch.cuda.set_rng_state(state["gpu"])
