"""The heading and the caption of each figure of a report."""

from paceline.reports.measures.groups import (
    MEASURED,
    NothingToDraw,
    Timing,
    any_oversubscribed,
    called,
    finished,
    reference,
    several_seeds,
    target,
    timed,
    timings,
    without_target,
)
from paceline.reports.measures.results import Results
from paceline.reports.text.tuning import CAPTIONS


def captions(results: Results) -> dict[str, tuple[str, str]]:
    """The heading and the caption of each figure, by its name."""
    told = {
        **_of_curves(results),
        **_of_bytes(results),
        **{
            k: text for times in timings(results) for k, text in _of_scaling(results, times).items()
        },
        **_of_exchanges(results),
        **_of_retrains(results),
        **CAPTIONS,
    }
    if results.benchmark["data"]["synthetic"]:
        told = {name: (head, f"{text} Synthetic data.") for name, (head, text) in told.items()}
    return told


def _of_curves(results: Results) -> dict[str, tuple[str, str]]:
    lines = (
        "Lines are means over seeds. Bands reach from the smallest to the largest value."
        if several_seeds(results)
        else "One seed."
    )
    if (results.trials["status"] != "FINISHED").any():
        lines += " A thin curve that ends in a cross belongs to a trial that did not finish."
    lines += " The high losses at the beginning may lie above the axis."
    cut = lines + _hollow(results)
    baseline = ""
    if "baseline" in set(results.trials["algorithm"]):
        baseline = (
            " The baseline is the same in every panel. It is cut off where all others have ended."
        )
    crowded = _crowded(results)
    return {
        "loss_against_steps": (
            "Validation loss against steps",
            f"Validation loss against the steps that each worker takes.{baseline} {cut}",
        ),
        "loss_against_examples": (
            "Validation loss against examples",
            f"Validation loss against the number of examples that all workers together have used. {cut}",
        ),
        "loss_against_seconds": (
            "Validation loss against training time",
            f"Validation loss against training time without evaluation.{baseline} {lines}{crowded}",
        ),
        "loss_against_bytes": (
            "Validation loss against bytes sent",
            "Validation loss against the bytes that a worker has sent. They are the mean over workers."
            f" The axis is logarithmic. {cut}",
        ),
    }


def _of_scaling(results: Results, times: Timing) -> dict[str, tuple[str, str]]:
    """The headings and captions of the figures that compare times of one kind."""
    bars = (
        " Points are means over seeds. Bars reach from the smallest to the largest value."
        if several_seeds(results)
        else " One seed."
    )
    base, rate = _reference(results, times)
    missed = ""
    if without_target(results):
        missed = " A cross marks a trial that ended without the target. Means are over the others."
    shared = (
        "each worker takes a batch of its own, so a step of more workers uses more examples"
        if results.benchmark["benchmark"]["scale"]["scaling"] == "weak"
        else "the workers share a batch of the same size"
    )
    kind = _kind(results, times)
    key, head = ("", "") if times == MEASURED else ("_modelled", f", {times.how}")
    goal = target(results) is not None
    to_target = (
        "; statistical efficiency, which is the number of examples to the target of the reference divided"
        " by that of the configuration; and the time to the target"
    )
    return {
        f"efficiency{key}": (
            f"Efficiency{' and time to the target' if goal else ''}{head}",
            f"The reference is {base}. The panels show hardware efficiency, which is the examples/s of"
            f" one worker relative to the reference{to_target if goal else ''}. Marks of different"
            f" algorithms are shifted sideways so that all are visible.{missed}{bars}{kind}",
        ),
        f"pareto{key}": (
            f"Time against bytes{head}",
            "Training time against the bytes that a worker sends, both until the target. The figure shows"
            " the configurations that reached the target with every seed. For a configuration on the"
            " front, no other has a lower mean of both. The table of ratios shows which configurations"
            f" differ.{bars}{kind}",
        ),
        f"speedup{key}": (
            f"Speedup{head}",
            f"Training throughput relative to {base}{rate}. In this benchmark, {shared}.{bars}{kind}",
        ),
    }


def _of_bytes(results: Results) -> dict[str, tuple[str, str]]:
    return {
        "bytes_sent": (
            "Communication",
            "Bytes that a worker sent during training, as the mean over workers and seeds. Coloured marks"
            " are measured. Grey bars are computed from the algorithm. A single worker sends nothing."
            f"{_hollow(results)}",
        ),
    }


def _of_exchanges(results: Results) -> dict[str, tuple[str, str]]:
    seeds = " Means over seeds." if several_seeds(results) else " One seed."
    pooled = " All seeds together." if several_seeds(results) else " One seed."
    return {
        "staleness": (
            "Downpour: staleness",
            "The staleness of a push is the number of pushes of other workers that a shard has applied"
            " since the worker last fetched from it. The figure shows its distribution over the pushes to"
            f" all shards. The dashed line is the mean.{pooled}",
        ),
        "residuals": (
            "ADMM: residuals",
            "The norm of the primal residual is the distance of the replicas from their consensus. The"
            " norm of the dual residual is rho times the distance that the consensus moved in the latest"
            f" exchange. The axis is logarithmic.{seeds}",
        ),
        "divergence": (
            "Model averaging: divergence",
            "The distance of a replica from the average of all replicas, relative to the norm of the"
            f" average, at each evaluation. It is the mean over replicas. The axis is"
            f" logarithmic.{seeds}",
        ),
    }


def _of_retrains(results: Results) -> dict[str, tuple[str, str]]:
    return {
        "churn_matrix": (
            "Churn",
            "Churn is the mean absolute difference of the predicted probabilities on the first validation"
            " rows, here in thousandths. The diagonal (bold) compares retrains that differ only in their"
            " seed. The other cells compare trials of two configurations with different seeds. All cells"
            " are means over pairs. If replicas stay separate, the first replica is used.",
        ),
    }


def _reference(results: Results, times: Timing) -> tuple[str, str]:
    """The name of the reference configuration, and its throughput in brackets."""
    try:
        base = reference(timed(finished(results), times))
    except NothingToDraw:
        return "nothing", ""
    first, rate = base.iloc[0], base[times.rate].mean()
    return called(results, first["algorithm"], first["workers"]), f" ({rate:,.0f} examples/s)"


def _hollow(results: Results) -> str:
    crowded = any_oversubscribed(finished(results))
    return " Hollow marks are trials with more ranks than cores." if crowded else ""


def _kind(results: Results, times: Timing) -> str:
    """The kind of times that a figure shows, if there are two kinds."""
    if times != MEASURED:
        return (
            " All times are modelled. A modelled time is the computing time of the slowest rank plus the"
            f" time to send its bytes over {results.link}.{_hollow(results)}"
        )
    if not any_oversubscribed(finished(results)):
        return ""
    return (
        " Times are measured. Trials with more ranks than cores are left out because their measured times"
        " mean nothing. The figure of modelled times shows them."
    )


def _crowded(results: Results) -> str:
    hollow = _hollow(results)
    return f"{hollow} Their measured times say nothing about speedup." if hollow else ""
