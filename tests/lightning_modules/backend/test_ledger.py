"""The ledger: bytes by hand, by phase, and from several threads."""

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed

from paceline.lightning_modules.backend.ledger import Ledger, wire_bytes
from tests.ranks import Plan, run_ranks, train
from tests.workload import trial


@pytest.mark.parametrize(
    ("operation", "size", "expected"),
    [
        # Of 1200 bytes on each of 4 ranks, the mean over the ranks.
        ("all_reduce", 4, 1800),  # 2 * 3/4
        ("all_reduce", 2, 1200),
        ("all_gather_into_tensor", 4, 3600),  # a rank's part goes to 3 others
        ("broadcast", 4, 900),  # 3 * 1200 over 4 ranks
        ("gather", 4, 900),
        ("reduce", 4, 1125),  # reduce-scatter 900, gather of quarters 3 * 300 / 4
        ("reduce_scatter_tensor", 4, 1800),  # gloo: an all-reduce
        ("all_to_all_single", 4, 900),
        ("send", 4, 1200),
        ("all_reduce", 1, 0),
    ],
)
def test_wire_bytes_by_hand(operation: str, size: int, expected: float) -> None:
    assert wire_bytes(operation, 1200, size) == expected


def test_nccl_reduce_scatters_at_the_lower_bound() -> None:
    assert wire_bytes("reduce_scatter_tensor", 1200, 4, "nccl") == 900
    assert wire_bytes("reduce", 1200, 4, "nccl") == 900


def test_evaluation_setup_and_checkpoints_are_booked_apart(tmp_path: Path) -> None:
    # Above 10^5 elements ZeRO 3 gathers a layer anew for an evaluation.
    wide = trial(2, 2, 6, zero_stage=3, width=20_000)
    figures = run_ranks(2, train, wide, Plan(save_to=tmp_path, save_at=4))
    phases = {row["phase"] for row in figures[0]["ledger"] if row["wire_bytes"]}
    assert phases >= {"setup", "train", "evaluation"}
    counted = sum(r["wire_bytes"] for r in figures[0]["ledger"] if r["phase"] == "train")
    assert figures[0]["points"][-1]["bytes_sent_per_worker"] == counted


class InstantBackend:
    """Stands for DeepSpeed's communication backend and sends nothing."""

    def nothing(self, *args: Any, **kwargs: Any) -> None: ...

    all_reduce = inference_all_reduce = all_reduce_coalesced = broadcast = reduce = nothing
    all_gather = all_gather_into_tensor = all_gather_coalesced = gather = scatter = nothing
    reduce_scatter = reduce_scatter_tensor = all_to_all_single = all_to_all = nothing
    send = isend = nothing


@pytest.fixture
def group_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda group: "gloo")


@pytest.mark.usefixtures("group_of_two")
def test_no_message_is_lost_when_two_threads_send() -> None:
    ledger, backend, tensor = Ledger(), InstantBackend(), torch.zeros(25)
    ledger.attach(backend)

    def send() -> None:
        for _ in range(5000):
            backend.send(tensor, 1)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert ledger.sent("setup") == (10_000, 1_000_000)


@pytest.mark.usefixtures("group_of_two")
def test_only_the_ledger_attached_last_counts() -> None:
    first, second, backend = Ledger(), Ledger(), InstantBackend()
    for ledger in (first, second, second):
        ledger.attach(backend)
    backend.send(torch.zeros(25), 1)
    assert first.sent("setup") == (0, 0)
    assert second.sent("setup") == (1, 100)
