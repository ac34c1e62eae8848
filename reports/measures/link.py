"""What a trial would have taken over a given link: a model, and labelled as one wherever it is shown."""

from dataclasses import dataclass
from math import log2
from typing import Any, Literal

from paceline.lightning_modules.backend.phases import TRAINING

AllReduce = Literal["ring", "tree", "rabenseifner"]


@dataclass(frozen=True)
class Link:
    """What joins two ranks, in Hockney's model: a message of n bytes takes latency + n / bandwidth.

    Attributes:
        latency_s: seconds before the first byte arrives.
        bytes_per_s: of one rank, in one direction.
    """

    latency_s: float
    bytes_per_s: float

    def message(self, count: float, size: float) -> float:
        """Seconds for `count` messages one after the other that hold `size` bytes together."""
        return count * self.latency_s + size / self.bytes_per_s


# Round figures of the kind of link, not of a product: its nominal bandwidth in one direction.
PRESETS = {
    "nvlink": Link(2e-6, 450e9),
    "infiniband-400g": Link(2e-6, 50e9),
    "ethernet-100g": Link(10e-6, 12.5e9),
    "ethernet-10g": Link(30e-6, 1.25e9),
    "ethernet-1g": Link(100e-6, 0.125e9),
    "wan-100m-50ms": Link(50e-3, 12.5e6),
}
DEFAULT = "ethernet-10g"


def operation_seconds(
    operation: str, payload: float, size: int, link: Link, all_reduce: AllReduce = "ring"
) -> float:
    """Seconds of one operation, by the cost models of Ben-Nun and Hoefler (2018), section 2.5.

    Args:
        operation: the name of the operation in `deepspeed.comm`.
        payload: bytes of the tensor that the operation is given on one rank.
        size: ranks in the group.
        link: between every two of them.
        all_reduce: the algorithm of an all-reduce, and of a reduce-scatter that gloo makes of one.
    """
    if size == 1:
        return 0.0
    rounds, share = size - 1, (size - 1) / size
    match operation:
        case "send" | "isend":
            return link.message(1, payload)
        case "all_gather" | "all_gather_into_tensor" | "all_gather_coalesced":
            return link.message(rounds, rounds * payload)
        case "all_to_all_single" | "all_to_all":
            return link.message(rounds, share * payload)
        case "broadcast" | "reduce" | "gather" | "scatter":
            return log2(size) * link.message(1, payload)
    match all_reduce:
        case "tree":
            return 2 * log2(size) * link.message(1, payload)
        case "rabenseifner":
            return link.message(2 * log2(size), 2 * share * payload)
        case _:
            return link.message(2 * rounds, 2 * share * payload)


def exchange_seconds(
    ledger: list[dict[str, Any]], link: Link, all_reduce: AllReduce = "ring"
) -> float:
    """Seconds that one rank's operations of training take one after the other.

    Args:
        ledger: the rows of the rank's ledger, as they are in a trial's record.
        link: between every two ranks.
        all_reduce: as in `operation_seconds`.
    """
    total = 0.0
    for row in ledger:
        if row["phase"] in TRAINING:
            mean = row["payload_bytes"] / row["messages"]
            once = operation_seconds(row["operation"], mean, row["group_size"], link, all_reduce)
            total += row["messages"] * once
    return total


def modelled_seconds(
    compute_seconds: float, messages: float, record: dict[str, Any], link: Link
) -> float:
    """Training time over `link`: what the slowest rank computes, and then its exchanges.

    Nothing overlaps, as nothing does in DeepSpeed over gloo at ZeRO 0. The exchanges up to a point
    of the curve are those of the whole trial by the share of messages sent until then.

    Args:
        compute_seconds: of the curve at that point.
        messages: that a worker had sent by then, likewise.
        record: of the trial.
        link: between every two ranks.
    """
    ranks = [rank["ledger"] for rank in record["result"]["ranks"]]
    sent = sum(
        row["messages"]
        for ledger in ranks
        for row in ledger
        if row["phase"] in TRAINING and row["group_size"] > 1
    ) / len(ranks)
    whole = max(exchange_seconds(ledger, link) for ledger in ranks)
    return compute_seconds + (whole * messages / sent if sent else 0.0)
