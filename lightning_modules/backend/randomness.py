"""The random numbers that are drawn without a generator of their own: `random`, NumPy's and torch's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# All trials of a workload, whatever their seed, draw the same when their data are built: a split that is
# drawn is one split, and retrains are compared on the same rows.
OF_DATA = 0


def seed(number: int) -> None:
    """Seeds all three with a number below 2^32."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Seeds all three for the block, and puts them back where they were."""
    before = state()
    seed(number)
    yield
    restore(before)


def state() -> dict[str, Any]:
    """Where all three are, the generator of the GPU in use among them."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "gpu": gpu,
    }


def restore(state: dict[str, Any]) -> None:
    """Puts all three where they were."""
    random.setstate(state["random"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["gpu"] is not None:
        torch.cuda.set_rng_state(state["gpu"])
