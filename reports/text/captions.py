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
        "Lines are means over seeds, bands reach from the least to the greatest."
        if several_seeds(results)
        else "One seed."
    )
    if (results.trials["status"] != "FINISHED").any():
        lines += " A cross ends the thin curve of a trial that did not finish."
    lines += " The first, high losses may lie above the axis."
    cut = lines + _hollow(results)
    baseline = ""
    if "baseline" in set(results.trials["algorithm"]):
        baseline = " The baseline is the same in every panel, and cut off where it goes on alone."
    crowded = _crowded(results)
    return {
        "loss_against_steps": (
            "Validation loss against steps",
            f"Validation loss against the steps that each worker takes.{baseline} {cut}",
        ),
        "loss_against_examples": (
            "Validation loss against examples",
            f"Validation loss against the examples that all workers together have trained on. {cut}",
        ),
        "loss_against_seconds": (
            "Validation loss against training time",
            f"Validation loss against training time, evaluation excluded.{baseline} {lines}{crowded}",
        ),
        "loss_against_bytes": (
            "Validation loss against bytes sent",
            "Validation loss against the bytes that a worker has sent, the mean over workers, on a"
            f" logarithmic axis. {cut}",
        ),
    }


def _of_scaling(results: Results, times: Timing) -> dict[str, tuple[str, str]]:
    """The headings and captions of the figures that compare times of one kind."""
    bars = (
        " Points are means over seeds, bars reach from the least to the greatest."
        if several_seeds(results)
        else " One seed."
    )
    base, rate = _reference(results, times)
    missed = ""
    if without_target(results):
        missed = " A cross: a trial ended without the target; a mean is of those that reached it."
    shared = (
        "each worker takes a batch of its own, so steps grow with the workers"
        if results.benchmark["benchmark"]["scale"]["scaling"] == "weak"
        else "the workers share a batch of the same size"
    )
    kind = _kind(results, times)
    key, head = ("", "") if times == MEASURED else ("_modelled", f", {times.how}")
    goal = target(results) is not None
    to_target = (
        "; statistical efficiency, the examples that it needs to the target by those needed here; and the"
        " time to the target"
    )
    return {
        f"efficiency{key}": (
            f"Efficiency{' and time to the target' if goal else ''}{head}",
            f"Relative to {base}: hardware efficiency, the examples/s of one worker"
            f"{to_target if goal else ''}. Marks of different algorithms stand side by side to be told"
            f" apart.{missed}{bars}{kind}",
        ),
        f"pareto{key}": (
            f"Time against bytes{head}",
            "Training time against the bytes that a worker sends, both until the target, of the"
            " configurations that reached it with every seed. No configuration on the front is beaten"
            " in both by the mean of another; whether two can be told apart, the table of ratios"
            f" says.{bars}{kind}",
        ),
        f"speedup{key}": (
            f"Speedup{head}",
            f"Training throughput relative to {base}{rate}; {shared}.{bars}{kind}",
        ),
    }


def _of_bytes(results: Results) -> dict[str, tuple[str, str]]:
    return {
        "bytes_sent": (
            "Communication",
            "Bytes that a worker sent while it trained, the mean over workers and seeds: measured"
            " (coloured mark) and expected by the algorithm's own arithmetic (grey bar). A single"
            f" worker sends nothing.{_hollow(results)}",
        ),
    }


def _of_exchanges(results: Results) -> dict[str, tuple[str, str]]:
    seeds = " Means over seeds." if several_seeds(results) else " One seed."
    pooled = " All seeds together." if several_seeds(results) else " One seed."
    return {
        "staleness": (
            "Downpour: staleness",
            "Updates that a shard of the parameter server made between a worker's fetch and its push,"
            f" over the pushes to all shards; the dashed line is their mean.{pooled}",
        ),
        "residuals": (
            "ADMM: residuals",
            "Norms of the primal residual, how far the replicas are from their consensus, and of the"
            " dual residual, rho times how far the consensus moved in the latest exchange, on a"
            f" logarithmic axis.{seeds}",
        ),
        "divergence": (
            "Model averaging: divergence",
            "Distance of a replica from the average of all at each evaluation, relative to the norm of"
            f" the average and the mean over replicas, on a logarithmic axis.{seeds}",
        ),
    }


def _of_retrains(results: Results) -> dict[str, tuple[str, str]]:
    return {
        "churn_matrix": (
            "Churn",
            "Mean absolute difference of predicted probabilities on the first validation rows, in"
            " thousandths: on the diagonal (bold) between retrains that differ in their seed alone,"
            " elsewhere between trials of two configurations with different seeds. Means over all such"
            " pairs; of replicas that stay apart, the first.",
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
    return " Hollow marks: more ranks than cores." if crowded else ""


def _kind(results: Results, times: Timing) -> str:
    """The kind of times that a figure shows, if there are two kinds."""
    if times != MEASURED:
        return (
            f" All times are modelled: what the slowest rank computes and then, over {results.link},"
            f" what it sends.{_hollow(results)}"
        )
    if not any_oversubscribed(finished(results)):
        return ""
    return (
        " Times are measured; trials with more ranks than cores are left out, as the wall clock says"
        " nothing there, and stand in the figure of modelled times."
    )


def _crowded(results: Results) -> str:
    hollow = _hollow(results)
    return f"{hollow[:-1]}, so the wall clock says nothing about speedup." if hollow else ""
