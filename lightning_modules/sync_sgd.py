"""Synchronous SGD: every step averages the gradients of all workers.

    g_t = 1/N sum_i grad L(x_t; B_t^i)          B_t^i: the batch of worker i, b examples
    x_{t+1} = optimizer(x_t, g_t)

All workers form one replica, and DeepSpeed all-reduces (ZeRO 0 to 2) or reduce-scatters (ZeRO 3) the
gradients inside it. N workers with batch b take the steps of one worker with batch N b.

Paper: Hegde and Usmani (2016), "Parallel and Distributed Deep Learning", parallel SGD; the cost of
the all-reduce, Ben-Nun and Hoefler (2018), "Demystifying Parallel and Distributed Deep Learning".
"""

from typing import Any

from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.layout import Layout


class SyncSGD(Algorithm):
    name = "sync_sgd"
    title = "synchronous SGD"
    zero_stages = (0, 1, 2, 3)

    @classmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        return Layout(replicas=1, ranks=workers)
