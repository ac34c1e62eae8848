"""The cost model of a link, on examples computed by hand."""

import pytest

from paceline.reports.measures.link import (
    PRESETS,
    Link,
    exchange_seconds,
    modelled_seconds,
    operation_seconds,
)

SLOW = Link(latency_s=0.5, bytes_per_s=100.0)


@pytest.mark.parametrize(
    ("operation", "all_reduce", "size", "seconds"),
    [
        # 400 bytes, 4 s on the wire at once.
        ("send", "ring", 4, 0.5 + 4),
        ("all_reduce", "ring", 4, 6 * 0.5 + 1.5 * 4),
        ("all_reduce", "rabenseifner", 4, 4 * 0.5 + 1.5 * 4),
        ("all_reduce", "tree", 4, 4 * (0.5 + 4)),
        ("all_reduce", "ring", 2, 2 * 0.5 + 4),
        ("reduce_scatter_tensor", "ring", 4, 6 * 0.5 + 1.5 * 4),
        ("all_gather_into_tensor", "ring", 4, 3 * 0.5 + 3 * 4),
        ("all_to_all_single", "ring", 4, 3 * 0.5 + 0.75 * 4),
        ("broadcast", "ring", 4, 2 * (0.5 + 4)),
        ("all_reduce", "ring", 1, 0.0),
    ],
)
def test_an_operation(operation, all_reduce, size, seconds) -> None:
    assert operation_seconds(operation, 400, size, SLOW, all_reduce) == pytest.approx(seconds)


def row(operation: str, messages: int, payload: int, phase: str = "train", size: int = 2) -> dict:
    return {
        "operation": operation,
        "messages": messages,
        "payload_bytes": payload,
        "phase": phase,
        "group_size": size,
    }


LEDGER = [
    row("all_reduce", 10, 4000),  # each 2 * 0.5 + 4 s
    row("isend", 2, 200, "exchange"),  # each 0.5 + 1 s
    row("all_reduce", 99, 99_000, "evaluation"),
    row("all_reduce", 7, 700, size=1),
]


def test_only_what_training_sends_to_others_counts() -> None:
    assert exchange_seconds(LEDGER, SLOW) == pytest.approx(10 * 5 + 2 * 1.5)


def test_a_trial_takes_what_it_computes_and_then_what_it_sends() -> None:
    busy = [*LEDGER, row("isend", 12, 0)]  # 12 * 0.5 s more, and twice as many messages
    record = {"result": {"ranks": [{"ledger": LEDGER}, {"ledger": busy}]}}
    # 18 messages a worker in all; at 9 of them half of the slowest rank's 59 s have passed.
    assert modelled_seconds(20.0, 9, record, SLOW) == pytest.approx(20 + 59 / 2)


def test_a_trial_that_sends_nothing_takes_what_it_computes() -> None:
    record = {"result": {"ranks": [{"ledger": []}]}}
    assert modelled_seconds(20.0, 0, record, PRESETS["wan-100m-50ms"]) == 20
