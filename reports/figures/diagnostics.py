"""Figures that algorithms report about their own exchanges: staleness, residuals, divergence."""

from collections import Counter
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from paceline.reports.figures.curves import ROW_HEIGHT, draw_mean, short_number
from paceline.reports.figures.look import (
    GREY,
    PANELS_A_ROW,
    algorithm_handles,
    legend,
    looks,
    panels_by_workers,
    readable_log_ticks,
)
from paceline.reports.measures.groups import NothingToDraw, configurations, finished
from paceline.reports.measures.results import Results

BARS = 40  # at most, in a histogram


def staleness(results: Results) -> Figure:
    """Draws the staleness of the gradients that Downpour's parameter servers applied, and its mean.

    The staleness of a push is the number of updates that its shard has made since the worker fetched
    the weights. Pushes to all shards and from all seeds are counted together.

    Raises:
        NothingToDraw: no finished trial recorded the staleness.
    """
    counted: dict[tuple[str, int], Counter[int]] = {}
    for algorithm, workers, trials in configurations(finished(results)):
        pushes = sum((_pushes(results.records.get(i, {})) for i in trials["run_id"]), Counter())
        if pushes:
            counted[algorithm, workers] = pushes
    if not counted:
        raise NothingToDraw("no trial that finished recorded the staleness of its pushes")
    counts = sorted({workers for _, workers in counted})
    figure, drawn = panels_by_workers(results, "staleness of pushes", counts, ROW_HEIGHT)
    stalest = max(max(pushes) for pushes in counted.values())
    width = -(-(stalest + 1) // BARS)
    edges = [first - 0.5 for first in range(0, stalest + 1 + width, width)]
    highest = Counter(workers for _, workers in counted)
    for (algorithm, workers), pushes in counted.items():
        axes, colour = drawn[workers], looks(results)[algorithm, workers].colour
        shares = [100 * count / pushes.total() for count in pushes.values()]
        axes.hist(list(pushes), edges, weights=shares, histtype="stepfilled", fc=colour, alpha=0.25)
        axes.hist(list(pushes), edges, weights=shares, histtype="step", color=colour, lw=1.1)
        mean = sum(value * count for value, count in pushes.items()) / pushes.total()
        axes.axvline(mean, color=colour, linestyle="--", linewidth=1)
        highest[workers] -= 1
        axes.annotate(
            f"mean {mean:.2f}",
            (mean, 0.93 - 0.1 * highest[workers]),
            xycoords=axes.get_xaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            color=colour,
        )
    first = drawn[counts[0]]  # the other panels share its y axis
    first.set_ylim(0, 1.25 * first.get_ylim()[1])  # room for the labels of the means
    # A share cannot exceed 100 %.
    first.set_yticks([tick for tick in first.get_yticks() if tick <= min(100, first.get_ylim()[1])])
    for i, axes in enumerate(drawn.values()):
        axes.set_xlim(-0.6, max(stalest, 3) + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("staleness (updates)")
        axes.set_ylabel("share of pushes (%)" if i % PANELS_A_ROW == 0 else "")
    legend(figure, algorithm_handles(results, [algorithm for algorithm, _ in counted]))
    return figure


def residuals(results: Results) -> Figure:
    """Draws the primal and the dual residual of consensus ADMM against steps, on a logarithmic axis.

    Raises:
        NothingToDraw: no trial reported them.
    """
    kinds = {"primal_residual": "-", "dual_residual": "--"}
    marks = [Line2D([], [], color=GREY, ls=line, label=kind[:-9]) for kind, line in kinds.items()]
    return _against_steps(results, "residuals of consensus ADMM", "residual norm", kinds, marks)


def divergence(results: Results) -> Figure:
    """Draws the distance of the replicas of model averaging from their average, against steps.

    Raises:
        NothingToDraw: no trial reported it.
    """
    title = "distance of replicas from their average"
    return _against_steps(results, title, "relative to the average", {"replica_divergence": "-"})


def _pushes(record: dict[str, Any]) -> Counter[int]:
    """The number of pushes to the shards of a trial, by staleness."""
    pushes: Counter[int] = Counter()
    for rank in record.get("result", {}).get("ranks", []):
        for value, count in rank.get("algorithm", {}).get("staleness", {}).items():
            pushes[int(value)] += count
    return pushes


def _against_steps(
    results: Results,
    title: str,
    ylabel: str,
    lines: dict[str, str],
    marks: list[Line2D] | None = None,
) -> Figure:
    """Draws metrics that only some algorithms report, against steps.

    Args:
        results: the results to draw.
        title: the title of the figure.
        ylabel: the label of the logarithmic vertical axis.
        lines: the line style of each metric.
        marks: entries of the legend that explain the line styles.
    """
    metrics = list(lines)
    curves = results.curves.reindex(columns=[*results.curves.columns.union(metrics)])
    curves = curves[curves["run_id"].isin(finished(results)["run_id"])]
    curves = curves[(curves[metrics].astype(float) > 0).any(axis=1)]
    if curves.empty:
        raise NothingToDraw(f"no trial that finished measured the {title}")
    counts = [int(count) for count in sorted(curves["workers"].unique())]
    figure, drawn = panels_by_workers(results, title, counts, ROW_HEIGHT)
    for algorithm, workers, curve in configurations(curves):
        look = looks(results)[algorithm, workers]
        for metric, line in lines.items():
            positive = curve[curve[metric].astype(float) > 0]
            draw_mean(
                drawn[workers],
                positive,
                "step",
                metric,
                replace(look, line=line),
            )
    first, *_ = drawn.values()
    first.set_yscale("log")
    readable_log_ticks(first)
    for i, axes in enumerate(drawn.values()):
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(short_number))
        axes.set_xlabel("steps")
        axes.set_ylabel(ylabel if i % PANELS_A_ROW == 0 else "")
    legend(figure, [*algorithm_handles(results, curves["algorithm"]), *(marks or [])])
    return figure
