"""Injects faults into a trial, to test how an algorithm and the runner handle them."""

import os
import signal
import time
from typing import Any

from pytorch_lightning import Callback, Trainer

from paceline.benchmarks.spec.settings import Fault


class InjectedFault(RuntimeError):
    """The error of a fault of kind `raise`."""


class FaultInjector(Callback):
    """Carries out a fault on its rank.

    A slow rank sleeps after each step, for `factor - 1` times the CPU seconds that its main thread spent
    on the step. The time that it waited for other ranks is not slowed down.
    """

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.cpu_seconds = 0.0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.cpu_seconds = time.thread_time()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        fault = self.fault
        if trainer.global_rank != fault.rank or trainer.global_step < fault.step:
            return
        match fault.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise InjectedFault(f"the fault asked for at step {fault.step}")
            case "slow":
                time.sleep((fault.factor - 1) * (time.thread_time() - self.cpu_seconds))
