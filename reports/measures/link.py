"""Models the time of a trial over a given link. Reports label such times as modelled."""

from dataclasses import dataclass
from math import log2
from typing import Any, Literal

from paceline.lightning_modules.backend.phases import TRAINING

AllReduce = Literal["ring", "tree", "rabenseifner"]


@dataclass(frozen=True)
class Link:
    """The link between two ranks in Hockney's model: n bytes take latency + n / bandwidth.

    Attributes:
        latency_s: seconds before the first byte arrives.
        bytes_per_s: the bandwidth of one rank in one direction.
    """

    latency_s: float
    bytes_per_s: float

    def message(self, count: float, size: float) -> float:
        """Seconds for `count` messages in sequence that hold `size` bytes in total."""
        return count * self.latency_s + size / self.bytes_per_s


# Round figures for a kind of link, not for a product. The bandwidth is nominal and in one direction.
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
        payload: bytes of the tensor that one rank passes to the operation.
        size: the number of ranks in the group.
        link: the link between every two ranks.
        all_reduce: the algorithm of an all-reduce. It also applies to a reduce-scatter, which gloo
            builds from an all-reduce.
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
    """Seconds that the training operations of one rank take in sequence.

    Args:
        ledger: the rows of the rank's ledger, as a trial's record holds them.
        link: the link between every two ranks.
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
    """Training time over `link`, up to a point of the curve.

    The time is the compute time of the slowest rank plus the time of its exchanges, as if the two did not
    overlap. Under ZeRO 0, gradients are sent beside backward, so the time is then an upper bound. The
    time of the exchanges up to the point is that of the whole trial, multiplied by the share of messages
    sent by then.

    Args:
        compute_seconds: `compute_seconds` of the curve at the point.
        messages: `messages_per_worker` of the curve at the point.
        record: the record of the trial.
        link: the link between every two ranks.
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
