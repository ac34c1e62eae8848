"""Downpour: asynchronous SGD through a parameter server. The workers do not wait for each other.

    worker i:   g <- grad L(x_i; B_i),   G_i <- G_i + g                            every step
                push G_i to every shard of the server, G_i <- 0                    every n_push steps
                x_i <- the weights of all shards                                   every n_fetch steps
                x_i <- optimizer(x_i, g)                                        at all other steps
    shard s:    w_s <- optimizer(w_s, G_i,s)                                       at every push

Each rank trains in one thread and serves a shard in another. A shard holds some whole tensors of the
model. A push and a fetch of the same step are one message to each shard and one message back. The
optimizer of a shard is that of the workload, with the same parameter groups. The schedule of its
learning rates is advanced by the mean number of steps that a worker has pushed. Buffers are pushed and
fetched together with the weights. A push changes the buffer b_s of a shard by (b_i - b_s) / N, for N
workers.

The staleness of a push is the number of pushes of other workers that the shard has applied since the
worker last fetched from it. With `staleness_aware`, the learning rate of a push is divided by its
staleness if that is at least 1. Worker 0 trains alone for the first `warm_start` steps, but no longer
than until the first evaluation.

An asynchronous run is not repeatable, but it can be replayed. `replay` is the record of an earlier run.
Every shard then serves the workers in the recorded order, and every worker takes the recorded batches.
One worker with n_push = n_fetch = 1 takes the same steps as plain SGD.

Papers: Dean et al. (2012), "Large Scale Distributed Deep Networks", section 4.1;
Gupta et al. (2015), "Staleness-aware Async-SGD for Distributed Deep Learning".

The weights of the server are evaluated.
"""

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.parameter_server import KIND_BYTES, ParameterServer
from paceline.lightning_modules.backend.search import Choice, Integer
from paceline.lightning_modules.backend.shard import FETCH, PUSH, READ
from paceline.lightning_modules.backend.state import State, tensors
from paceline.lightning_modules.backend.task import Task


class Downpour(Algorithm):
    """Asynchronous SGD through a sharded parameter server.

    Args:
        task: the task to train.
        n_push: the number of steps between two pushes of the accumulated gradients.
        n_fetch: the number of steps between two fetches of the weights.
        staleness_aware: if True, the learning rate of a push is divided by its staleness.
        warm_start: the number of steps that worker 0 takes before the other workers start.
        replay: the path of the record (`record.json`) of a run with the same settings. That run is
            repeated bit for bit.

    Raises:
        ValueError: an argument is out of range, or the record cannot be used.
    """

    name = "downpour"
    title = "Downpour SGD"
    rehearsal = {"n_push": 1, "n_fetch": 1, "warm_start": 1, "replay": None}
    search_space = {
        "n_push": Integer(1, 10, log=True),
        "n_fetch": Integer(1, 10, log=True),
        "staleness_aware": Choice((False, True)),
    }
    asynchronous = True
    zero_stages = (0,)  # under ZeRO 1 to 3, DeepSpeed consumes the gradients before they are pushed

    def __init__(
        self,
        task: Task,
        n_push: int = 1,
        n_fetch: int = 1,
        staleness_aware: bool = False,
        warm_start: int = 0,
        replay: str | None = None,
    ) -> None:
        super().__init__(task)
        for name, value in (("n_push", n_push), ("n_fetch", n_fetch)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1 step, not {value}")
        self.n_push, self.n_fetch = n_push, n_fetch
        self.staleness_aware, self.warm_start = staleness_aware, warm_start
        self.recorded = None if replay is None else _schedules(Path(replay))
        self.drawn: list[int] = []
        self.waiting = False
        self.accrued: list[Tensor] = []  # G_i; empty after a push
        self.pause = ExitStack()  # of the optimizer of this worker
        self.server: ParameterServer
        self.resumed: tuple[list[Tensor], dict[str, Any], list[int]] | None = None

    def tickets(self, rank: int, draw: Callable[[int], int]) -> Callable[[int], int]:
        recorded = self.recorded[rank]["tickets"] if self.recorded else None

        def drawn(first: int) -> int:
            self.drawn.append(draw(first) if recorded is None else recorded[len(self.drawn)])
            return self.drawn[-1]

        return drawn

    def on_train_start(self) -> None:
        rank = self.backend.global_rank
        self.server = ParameterServer(
            self.task,
            self.scheduled,
            self.n_push,
            self.staleness_aware,
            self.backend.comm,
            self.backend.ledger,
            self.backend.clock,
            replay=self.recorded[rank]["served"] if self.recorded else None,
        )
        if self.resumed is not None:
            self.accrued, state, served = self.resumed
            self.server.shard.load(state)
            self.server.served = list(served)
        self.waiting = self.resumed is None and self.warm_start > 0
        self.server.start()

    def on_train_batch_start(self, *_: Any) -> None:
        if self.waiting and self.backend.global_rank > 0:
            with self.backend.exchanging():
                self.server.wait_for_release()
                self._request(FETCH)
            self.waiting = False

    def on_before_optimizer_step(self, _: Any) -> None:
        if not self.backend.stepping:
            return
        gradients = self.backend.gradients()
        fetching = (self.trainer.global_step + 1) % self.n_fetch == 0
        if fetching:  # the fetch would overwrite a local step at once
            self.pause.enter_context(self.schedule.paused())
        if self.accrued:
            torch._foreach_add_(self.accrued, gradients)
        else:
            # A copy where the worker steps, because its optimizer may change its gradients.
            self.accrued = gradients if fetching else [g.clone() for g in gradients]

    def exchange(self, step: int) -> None:
        self.pause.close()
        pushing, fetching = step % self.n_push == 0, step % self.n_fetch == 0
        if pushing or fetching:
            self._request(PUSH * pushing | FETCH * fetching)
        if pushing:
            self.accrued = []
            self.exchanges += 1
        if step == self.warm_start:
            self._release()

    def _request(self, kind: int) -> None:
        held = tensors(self.task, "weights", "buffers")
        self.server.request(kind, [*self.accrued, *held[len(self.accrued) :]], held)

    def _release(self) -> None:
        """Lets the workers start that wait for worker 0."""
        if self.waiting and self.backend.global_rank == 0:
            self.server.release()
            self.waiting = False

    def evaluated_state(self) -> State:
        self._release()
        self.backend.barrier()  # every push has reached its shard
        state = self.backend.state()
        self.server.request(READ, fetched=state.tensors())
        return state

    def on_train_end(self) -> None:
        self.server.stop()

    def figures(self) -> dict[str, float]:
        """Returns the mean staleness of the pushes to this rank's shard so far, and their number."""
        shard = self.server.shard
        total = sum(value * count for value, count in shard.staleness.items())
        return {"staleness": total / max(1, shard.clock), "server_clock": shard.clock}

    def record(self) -> dict[str, Any]:
        """Returns the staleness of the pushes to this rank's shard, and the schedule for a replay."""
        staleness = dict(sorted(self.server.shard.staleness.items()))
        schedule = {"served": self.server.served, "tickets": self.drawn}
        return {"staleness": staleness, "pushed": self.exchanges, "schedule": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A ticket that was drawn ahead is drawn again.
        drawn = self.drawn[: self.trainer.global_step]
        state = (self.accrued, self.server.shard.state(), self.server.served)
        checkpoint["downpour"] = (state, drawn)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.resumed, drawn = checkpoint["downpour"]
        self.drawn = list(drawn)

    def expected_bytes(self, layout: Layout, zero_stage: int, steps: int) -> float:
        """Counts the bytes that the pushes and fetches of a worker move.

        Each push and each fetch moves all tensors except those of the worker's own shard. A request to
        each other shard begins with its kind. The mean over the workers is the mean of the bytes that
        they send.
        """
        elsewhere = self.state_bytes - self.server.bytes[self.backend.global_rank]
        pushes, fetches = steps // self.n_push, steps // self.n_fetch
        requests = pushes + fetches - steps // math.lcm(self.n_push, self.n_fetch)
        return elsewhere * (pushes + fetches) + (layout.replicas - 1) * KIND_BYTES * requests


def _schedules(path: Path) -> list[dict[str, list[int]]]:
    """Returns the schedule of each rank from the record of a trial."""
    try:
        ranks = json.loads(path.read_text())["result"]["ranks"]
        return [rank["algorithm"]["schedule"] for rank in ranks]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"replay: {path} is not the record of a Downpour trial: {error}"
        ) from error
