"""Speedup, efficiency and bytes sent against the number of workers."""

import math
from collections.abc import Callable
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from paceline.reports.figures.look import (
    GREY,
    Label,
    Look,
    algorithm_handles,
    hollow_handle,
    legend,
    looks,
    panel,
    panels,
    readable_log_ticks,
    workers_axis,
    write_beside,
)
from paceline.reports.measures.efficiency import hardware, statistical
from paceline.reports.measures.groups import (
    MEASURED,
    NothingToDraw,
    Timing,
    any_oversubscribed,
    configurations,
    finished,
    names,
    reference,
    si_bytes,
    target,
    timed,
    without_target,
)
from paceline.reports.measures.results import Results

MISSED = 0.05  # the distance from the edge of the crosses of trials that missed the target
Values = Callable[[pd.DataFrame], "pd.Series[float]"]


def speedup(results: Results, times: Timing = MEASURED) -> Figure:
    """Draws examples per second relative to `reference` against workers, with the ideal line.

    Raises:
        NothingToDraw: no trial with times of this kind finished, or all of them ran on the same number
            of workers.
    """
    trials, counts = _scaled(results, times)
    title = f"speedup of training throughput ({times.how}), {_scaling(results)}"
    figure, axes = panel(results, title)
    unit = reference(trials)[times.rate].mean()
    ideal = [count / counts[0] for count in counts]
    axes.plot(counts, ideal, color=GREY, linestyle=":", linewidth=1)
    labels = [Label(ideal[-1], "ideal: as many times the workers", Look(GREY, line=":"))]
    for algorithm in trials["algorithm"].unique():
        own = trials[trials["algorithm"] == algorithm]
        means = _draw_against_workers(axes, results, own, lambda rows: rows[times.rate] / unit)
        look = looks(results)[algorithm, max(means)]
        labels.append(Label(means[max(means)], names(results)[algorithm], look))
    workers_axis(axes, counts)
    axes.set_yscale("log")
    readable_log_ticks(axes)
    axes.set_ylabel(f"relative examples/s\n({times.how})")
    write_beside(axes, labels, figure.get_figheight() - 0.8)
    return figure


def efficiency(results: Results, times: Timing = MEASURED) -> Figure:
    """Draws hardware efficiency, statistical efficiency and seconds to the target against workers.

    Both efficiencies are relative to `reference`. For a given number of workers, the time to the target
    is roughly inversely proportional to their product. If a trial ended without the target, its
    configuration has a cross at the edge of the last two panels. If no trial of the configuration
    reached the target, the cross replaces the mean. If the workload has no target, the figure has only
    the first panel.

    Raises:
        NothingToDraw: no trial with times of this kind finished, or all of them ran on the same number
            of workers.
    """
    trials, counts = _scaled(results, times)
    base = reference(trials)
    quantities: list[tuple[str, str, Values]] = [
        (
            "hardware efficiency",
            f"relative examples/s of a worker\n({times.how})",
            lambda rows: hardware(rows, base, times.rate),
        ),
        (
            "statistical efficiency",
            "relative examples to the target",
            lambda rows: statistical(rows, base),
        ),
        (
            "time to the target",
            f"training time (s)\n({times.how})",
            lambda rows: rows[times.seconds],
        ),
    ]
    if target(results) is None:
        del quantities[1:]
    title = "efficiency" + (" and time to the target" if len(quantities) > 1 else "")
    title += f" ({times.how}), {_scaling(results)}"
    figure, drawn = panels(results, title, len(quantities), 2.4)
    there = {(algorithm, workers) for algorithm, workers, _ in configurations(trials)}
    missed = [(a, n) for a, own in without_target(results).items() for n in own if (a, n) in there]
    for axes, (title, ylabel, values) in zip(drawn, quantities, strict=True):
        of_target = "target" in ylabel + title
        axes.set_title(title)
        axes.set_ylabel(ylabel)
        if "relative" in ylabel:
            axes.axhline(1, color=GREY, linestyle=":", linewidth=1)
        for place, algorithm in _side_by_side(trials):
            own = trials[trials["algorithm"] == algorithm]
            _draw_against_workers(axes, results, own, values, place)
            for label, workers in missed if of_target else []:
                if label == algorithm:
                    _draw_missed(axes, looks(results)[label, workers], workers * place, title)
        if title.startswith("statistical") and base["examples_to_target"].isna().all():
            text = "the reference did not reach the target"
            axes.text(0.5, 0.5, fill(text, 24), transform=axes.transAxes, ha="center")
        workers_axis(axes, counts)
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.yaxis.set_major_locator(MaxNLocator(6))
    handles = algorithm_handles(results, trials["algorithm"])
    if missed:
        cross = Line2D([], [], color=GREY, marker="x", mew=1.5, ls="", label="target not reached")
        handles.append(cross)
    if any_oversubscribed(trials):
        handles.append(hollow_handle())
    legend(figure, handles)
    return figure


def bytes_sent(results: Results) -> Figure:
    """Draws the bytes that a worker sent in a whole trial, measured and expected.

    Raises:
        NothingToDraw: no trial on more than one worker finished.
    """
    trials = finished(results)
    trials = trials[trials["workers"] > 1]
    if trials.empty:
        raise NothingToDraw("no trial on more than one worker finished, so nothing was sent")
    groups = configurations(trials)
    height = 0.9 + min(0.27, 4.9 / len(groups)) * len(groups)
    figure, axes = panel(results, "bytes sent per worker", height)
    measured = [float(own["bytes_sent_per_worker"].mean()) for _, _, own in groups]
    expected = [float(own["expected_bytes_per_worker"].mean()) for _, _, own in groups]
    shown = [value for value in (*measured, *expected) if value > 0]
    logarithmic = bool(shown) and max(shown) > 100 * min(shown)
    for row, (algorithm, workers, _) in enumerate(groups):
        look = looks(results)[algorithm, workers]
        sent = measured[row] or (math.nan if logarithmic else 0.0)  # a logarithmic axis has no zero
        axes.plot(expected[row], row, "|", color=GREY, markersize=13, markeredgewidth=1.6)
        mark: dict[str, Any] = {"color": look.colour, "mfc": look.fill, "ms": 5, "clip_on": False}
        axes.plot(sent, row, look.marker, **mark)
        text = _compared(measured[row], expected[row])
        axes.annotate(text, (1.02, row), xycoords=axes.get_yaxis_transform(), va="center")
    called = [f"{names(results)[a]}, {n}" for a, n, _ in groups]
    axes.set_yticks(range(len(groups)), [fill(text, 34) for text in called])
    axes.set_ylabel("algorithm, workers")
    axes.set_ylim(len(groups) - 0.4, -0.6)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, 1.08 * max(shown, default=1.0))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.set_xlabel("bytes sent per worker over the whole trial")
    axes.grid(visible=False, axis="y")
    return figure


def _scaling(results: Results) -> str:
    return f"{results.benchmark['benchmark']['scale']['scaling']} scaling"


def _scaled(results: Results, times: Timing) -> tuple[pd.DataFrame, list[int]]:
    """The finished trials whose times are meaningful, and their numbers of workers in ascending order."""
    trials = timed(finished(results), times)
    counts = sorted(int(workers) for workers in trials["workers"].unique())
    crowded = len(trials) < len(finished(results))
    which = "trial with a core for every rank" if crowded else "trial"
    if not counts:
        raise NothingToDraw(f"no {which} finished")
    if len(counts) < 2:
        raise NothingToDraw(f"every {which} that finished ran on the same number of workers")
    return trials, counts


def _side_by_side(trials: pd.DataFrame) -> list[tuple[float, str]]:
    """Each algorithm, with the factor that moves its marks beside those of the others.

    The baseline and a single algorithm are not moved.
    """
    labels = [label for label in trials["algorithm"].unique() if label != "baseline"]
    width = 0.5 if len(labels) > 1 else 0.0  # in doublings of the number of workers
    parts = max(1, len(labels) - 1)
    placed = [(2 ** (width * (i / parts - 0.5)), label) for i, label in enumerate(labels)]
    if "baseline" in set(trials["algorithm"]):
        placed.append((1.0, "baseline"))
    return placed


def _draw_against_workers(
    axes: Axes, results: Results, trials: pd.DataFrame, values: Values, place: float = 1.0
) -> dict[int, float]:
    """Draws the means over seeds of one algorithm, with bars from the least to the greatest.

    Returns:
        The means by number of workers. Configurations without a value are left out.
    """
    means = {}
    for algorithm, workers, rows in sorted(configurations(trials), key=lambda group: group[1]):
        look, own = looks(results)[algorithm, workers], values(rows).astype(float).dropna()
        if not own.empty:
            means[workers] = float(own.mean())
            at = workers * place
            axes.vlines(at, own.min(), own.max(), color=look.colour, linewidth=1)
            axes.plot(
                at,
                means[workers],
                look.marker,
                color=look.colour,
                mfc=look.fill,
                ls="none",
                zorder=3,
            )
    if means:
        at_all = [workers * place for workers in means]
        axes.plot(at_all, list(means.values()), color=look.colour, ls=look.line, lw=0.9)
    return means


def _draw_missed(axes: Axes, look: Look, at: float, title: str) -> None:
    """Draws a cross at the edge of the worse values: low efficiency or long time."""
    height = 1 - MISSED if title.startswith("time") else MISSED
    to_edge: Any = axes.get_xaxis_transform()
    axes.plot(at, height, "x", color=look.colour, mew=1.5, transform=to_edge, clip_on=False)


def _compared(measured: float, expected: float) -> str:
    if not expected > 0:
        return si_bytes(measured)
    return f"{si_bytes(measured)}, {100 * measured / expected:.2f} % of expected"
