"""Faults that a trial is given on purpose, to see how an algorithm and the runner bear them."""

import os
import signal
import time
from typing import Any

from pytorch_lightning import Callback, Trainer

from paceline.benchmarks.spec.settings import Fault


class InjectedFault(RuntimeError):
    """Raised by a fault of kind `raise`."""


class FaultInjector(Callback):
    """Carries out a fault on the rank that it is meant for.

    A slow rank sleeps after each of its steps, `factor - 1` times the CPU seconds that its main
    thread has spent on it: what it waited for others is not slowed down again.
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
