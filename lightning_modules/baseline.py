"""The baseline: plain minibatch training on one worker. Every speedup is relative to it.

x_{t+1} = optimizer(x_t, grad L(x_t; B_t))
"""

from typing import Any

from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.sync_sgd import SyncSGD


class Baseline(SyncSGD):
    name = "baseline"
    title = "baseline"

    @classmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        if workers != 1:
            raise ValueError(f"the baseline runs on 1 worker, not on {workers}")
        return super().layout(workers)
