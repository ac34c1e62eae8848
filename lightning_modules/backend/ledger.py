"""Counts every message and byte that a rank sends."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
import torch.distributed

from paceline.lightning_modules.backend.phases import TRAINING


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(_bytes(item) for item in value)


# The argument of each operation that holds its payload, by position and by name. Operations that send
# objects or only synchronise are missing. None of them is used between two steps.
_PAYLOAD = {
    "all_reduce": (0, "tensor"),
    "inference_all_reduce": (0, "tensor"),
    "all_reduce_coalesced": (0, "tensors"),
    "broadcast": (0, "tensor"),
    "reduce": (0, "tensor"),
    "all_gather": (1, "tensor"),
    "all_gather_into_tensor": (1, "input_tensor"),
    "all_gather_coalesced": (1, "input_tensors"),
    "reduce_scatter": (1, "input_list"),
    "reduce_scatter_tensor": (1, "input_tensor"),
    "all_to_all_single": (1, "input"),
    "all_to_all": (1, "input_tensor_list"),
    "gather": (0, "tensor"),
    "scatter": (0, "tensor"),
    "send": (0, "tensor"),
    "isend": (0, "tensor"),
}


def wire_bytes(operation: str, payload: float, size: int, backend: str = "gloo") -> float:
    """Returns the bytes that a rank of a group sends in one operation, as a mean over the group.

    The counts of the ring algorithms are those of Ben-Nun and Hoefler (2018), section 2.5. An all-reduce
    of n bytes over N ranks costs 2 (N - 1) / N n bytes per rank, which is also its lower bound.

    Args:
        operation: the name of the operation in `deepspeed.comm`.
        payload: the bytes of the tensor that is passed to the operation on one rank.
        size: the number of ranks in the group.
        backend: the communication backend. gloo implements a reduce-scatter as an all-reduce of its
            input, and a reduce as a reduce-scatter followed by a gather. NCCL sends the lower bound.
    """
    if size == 1:
        return 0.0
    share = (size - 1) / size
    match operation:
        case "send" | "isend":
            return payload
        case "all_gather" | "all_gather_into_tensor" | "all_gather_coalesced":
            return (size - 1) * payload
        case "broadcast" | "gather" | "scatter" | "all_to_all_single" | "all_to_all":
            return share * payload
        case "reduce":
            return (share + share / size) * payload if backend == "gloo" else share * payload
        case "reduce_scatter" | "reduce_scatter_tensor" if backend != "gloo":
            return share * payload
        case _:
            return 2 * share * payload


def engine_bytes(
    model_bytes: float, ranks: int, zero_stage: int, backend: str = "gloo", parts: int = 1
) -> float:
    """Returns the bytes that a rank sends in one DeepSpeed step of a replica of `ranks` ranks.

    DeepSpeed 0.19 sends the following, in units of (N - 1) / N p for N ranks and p bytes of parameters:

    - ZeRO 0: an all-reduce of the gradients, 2. `reduction.py` sends it, in several parts.
    - ZeRO 1 and 2: an all-reduce of the gradients, of which each rank then keeps its part, and an
      all-gather of the parameters after the step, 2 + 1. These stages save memory, but no traffic.
    - ZeRO 3: a reduce-scatter of the gradients and one all-gather of the parameters, 1 + 1. Up to 10^9
      parameters stay gathered between forward and backward. gloo implements the reduce-scatter as an
      all-reduce of its input, 2 + 1.

    If the gradient of a step is accumulated over several parts of the batch, ZeRO 0 and 1 reduce the sum.
    ZeRO 2 and 3 reduce the gradient of every part.

    The following is not counted: the norm of the gradients (8 bytes per step) and padding to equal parts.
    With ZeRO 3, two kinds of steps send more than is counted. In the first step, DeepSpeed records the
    order of the layers and gathers up to two more times. The step after each evaluation gathers the
    parameters again that were released at the end of the evaluation.
    """
    share = (ranks - 1) / ranks * model_bytes
    match zero_stage:
        case 0:
            return 2 * share
        case 1:
            return 3 * share
        case 3 if backend != "gloo":
            return (parts + 1) * share
        case _:
            return (2 * parts + 1) * share


class TimedWork:
    """An asynchronous operation. The ledger counts the time of `wait` as sending.

    The time between the start of the operation and `wait` is not counted, because the rank computes
    meanwhile.
    """

    def __init__(self, work: Any, ledger: "Ledger") -> None:
        self._work, self._ledger = work, ledger

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._work.wait(*args, **kwargs)
        finally:
            self._ledger._add(time.perf_counter() - start)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


class Ledger:
    """Counts what one rank sends to others, by operation, group size and phase.

    DeepSpeed and the algorithms send everything through the methods of one object, which
    `private.communication_backend` returns. The ledger wraps these methods. It uses a lock, because an
    asynchronous algorithm sends from two threads.

    Attributes:
        phase: the current phase of every thread that is not inside `during`.
        seconds: the seconds that a thread was held up by sending, by phase. Of an asynchronous operation,
            these are its call and the wait for its end.
    """

    def __init__(self) -> None:
        self.phase = "setup"
        self.seconds: Counter[str] = Counter()
        self._own = threading.local()
        # By operation, bytes of payload, size and backend of the group, and phase. Everything else is
        # computed on request, because counting delays every message.
        self._messages: Counter[tuple[str, int, int, str, str]] = Counter()
        self._groups: dict[Any, tuple[int, str]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Counts what this thread sends inside the block under `phase`."""
        before, self._own.phase = getattr(self._own, "phase", None), phase
        try:
            yield
        finally:
            self._own.phase = before

    def attach(self, backend: Any) -> None:
        """Starts to count what is sent through `backend`, a DeepSpeed communication backend object.

        A ledger that was attached earlier stops counting, so that a second `fit` is not counted twice.
        """
        self._groups.clear()
        for operation in _PAYLOAD:
            method = getattr(type(backend), operation).__get__(backend)
            setattr(backend, operation, self._counted(operation, method))

    def _counted(self, operation: str, method: Callable[..., Any]) -> Callable[..., Any]:
        place, argument = _PAYLOAD[operation]

        @wraps(method)
        def counted(*args: Any, **kwargs: Any) -> Any:
            group = kwargs.get("group") or next(
                (a for a in args if isinstance(a, torch.distributed.ProcessGroup)), None
            )
            size, name = self._size_and_backend(group)
            if size == 1:
                return method(*args, **kwargs)
            payload = _bytes(kwargs[argument] if argument in kwargs else args[place])
            start = time.perf_counter()
            try:
                result = method(*args, **kwargs)
            finally:
                self._add(time.perf_counter() - start, operation, payload, size, name)
            return TimedWork(result, self) if hasattr(result, "wait") else result

        return counted

    def _add(self, seconds: float, *message: Any) -> None:
        phase = getattr(self._own, "phase", None) or self.phase
        with self._lock:
            if message:
                self._messages[*message, phase] += 1
            self.seconds[phase] += seconds  # type: ignore[assignment]

    def _size_and_backend(self, group: Any) -> tuple[int, str]:
        # Cached, because torch needs as much time to find them as the rest of the counting.
        if group not in self._groups:
            size = torch.distributed.get_world_size(group)
            self._groups[group] = size, torch.distributed.get_backend(group)
        return self._groups[group]

    def state(self) -> tuple[dict[Any, int], dict[str, float]]:
        """Returns what was counted until now, for a checkpoint."""
        with self._lock:
            return dict(self._messages), dict(self.seconds)

    def load(self, state: tuple[dict[Any, int], dict[str, float]]) -> None:
        """Continues from the counts of a checkpoint."""
        with self._lock:
            self._messages, self.seconds = Counter(state[0]), Counter(state[1])

    @property
    def training_seconds(self) -> float:
        """The seconds spent sending in the phases that belong to the algorithm."""
        return sum(self.seconds[phase] for phase in TRAINING)

    def sent(self, *phases: str) -> tuple[int, float]:
        """Returns the numbers of messages and of wire bytes in these phases."""
        rows = [row for row in self.rows() if row["phase"] in phases]
        return sum(row["messages"] for row in rows), sum(row["wire_bytes"] for row in rows)

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per operation, group size and phase, for the record of a trial."""
        with self._lock:
            counted = sorted(self._messages.items())
        rows: dict[tuple[str, int, str], dict[str, Any]] = {}
        for (operation, payload, size, backend, phase), messages in counted:
            names = {"operation": operation, "group_size": size, "phase": phase}
            sums = dict.fromkeys(("messages", "payload_bytes", "wire_bytes"), 0)
            row = rows.setdefault((operation, size, phase), {**names, **sums})
            row["messages"] += messages
            row["payload_bytes"] += messages * payload
            row["wire_bytes"] += messages * wire_bytes(operation, payload, size, backend)
        return [rows[key] for key in sorted(rows)]
