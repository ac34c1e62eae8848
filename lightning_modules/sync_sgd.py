"""Synchronous SGD: at every step, the gradients of all workers are averaged.

    g_t = 1/N sum_i grad L(x_t; B_t^i)          B_t^i: the batch of worker i, b examples
    x_{t+1} = optimizer(x_t, g_t)

All workers form one replica. Inside it, the backend averages the gradients by all-reduces beside backward
(ZeRO 0). Under ZeRO 1 to 3, DeepSpeed does that after backward, by an all-reduce or a reduce-scatter.
N workers with batch size b take the same steps as one worker with batch size N b.

Papers: Hegde and Usmani (2016), "Parallel and Distributed Deep Learning", for parallel SGD; Ben-Nun and
Hoefler (2018), "Demystifying Parallel and Distributed Deep Learning", for the cost of the all-reduce.
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
