"""The validation loss during training against steps, examples, seconds and bytes."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from paceline.reports.figures.look import (
    GREY,
    PANELS_A_ROW,
    Label,
    Look,
    algorithm_handles,
    legend,
    looks,
    panels_by_workers,
    readable_log_ticks,
    write_beside,
)
from paceline.reports.measures.groups import (
    NothingToDraw,
    configurations,
    finished,
    listed,
    names,
    target,
)
from paceline.reports.measures.results import Results

ROW_HEIGHT = 2.5  # inches
SHOWN = 0.85  # at least this fraction of all evaluations lies below the top of the axes


def loss_against_steps(results: Results) -> Figure:
    """Draws the validation loss of every algorithm against steps, with a panel for each worker count.

    Raises:
        NothingToDraw: no trial got as far as its first evaluation.
    """
    return _loss(results, "step", "steps")


def loss_against_examples(results: Results) -> Figure:
    """Draws the validation loss against the examples on which all workers together have trained.

    Raises:
        NothingToDraw: no trial got as far as its first evaluation.
    """
    return _loss(results, "examples", "examples of all workers")


def loss_against_seconds(results: Results) -> Figure:
    """Draws the validation loss against training time in seconds, without evaluation.

    Raises:
        NothingToDraw: no trial got as far as its first evaluation.
    """
    return _loss(results, "train_seconds", "training time (s)")


def loss_against_bytes(results: Results) -> Figure:
    """Draws the validation loss against the bytes that a worker has sent, on a logarithmic axis.

    Raises:
        NothingToDraw: no trial got as far as its first evaluation, or none sent anything.
    """
    return _loss(results, "bytes_sent_per_worker", "bytes sent per worker", log=True)


def _loss(results: Results, x: str, xlabel: str, log: bool = False) -> Figure:
    curves = results.curves[np.isfinite(results.curves["validation_loss"].astype(float))]
    if curves.empty:
        raise NothingToDraw("no trial got as far as its first evaluation")
    silent: list[str] = []
    if log:
        sending = curves[curves[x] > 0]
        silent = [a for a in curves["algorithm"].unique() if a not in set(sending["algorithm"])]
        curves = sending
        if curves.empty:
            raise NothingToDraw("no trial sent anything")
    shown = _by_workers(curves)
    title = f"validation loss against {xlabel.partition(' (')[0]}"
    figure, drawn = panels_by_workers(results, title, list(shown), ROW_HEIGHT)
    levels = _levels(results)
    low, high = _focus(curves["validation_loss"], target(results), levels)
    for i, (count, axes) in enumerate(drawn.items()):
        for algorithm, workers, curve in configurations(shown[count]):
            _draw_trials(axes, results, curve, x, looks(results)[algorithm, workers])
        for level in levels:
            axes.axhline(level.height, color=GREY, linestyle=level.look.line, lw=1, zorder=1)
        axes.set_xlabel(xlabel)
        if low > 0 and high > 5 * low:
            axes.set_yscale("log")
        axes.set_ylim(low, high)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=6))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(EngFormatter("B", sep=" "))
        else:
            axes.set_xlim(0, _right_end(shown[count], x))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(short_number))
        if i % PANELS_A_ROW == 0:
            axes.set_ylabel(f"validation {results.benchmark['loss_name']}")
        if axes.get_yscale() == "log":
            readable_log_ticks(axes)
        if (i + 1) % PANELS_A_ROW == 0 or i + 1 == len(drawn):
            write_beside(axes, [_within(level, low) for level in levels], ROW_HEIGHT - 0.7)
    handles = algorithm_handles(results, curves["algorithm"])
    if not set(curves["run_id"]) <= set(finished(results)["run_id"]):
        handles.append(Line2D([], [], color=GREY, lw=0.7, marker="x", label="did not finish"))
    called = [names(results)[label] for label in silent]
    note = f"Not drawn, as nothing is sent: {listed(called)}." if silent else ""
    legend(figure, handles, note)
    return figure


def _by_workers(curves: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The rows of each panel: the curves with that number of workers, and the baseline's.

    Every panel shows the baseline on its fewest workers. This baseline has a panel of its own only if
    nothing else was run.
    """
    base = curves[curves["algorithm"] == "baseline"]
    base = base[base["workers"] == base["workers"].min()]
    others = curves.drop(base.index)
    if others.empty:
        return {int(base["workers"].iloc[0]): base}
    return {
        int(count): pd.concat([base, others[others["workers"] == count]])
        for count in sorted(others["workers"].unique())
    }


def _draw_trials(axes: Axes, results: Results, curve: pd.DataFrame, x: str, look: Look) -> None:
    """Draws the mean of the finished trials of a configuration, and each other trial on its own."""
    whole = curve["run_id"].isin(finished(results)["run_id"])
    for run_id in curve.loc[~whole, "run_id"].unique():
        own = curve[curve["run_id"] == run_id]
        axes.plot(own[x], own["validation_loss"], color=look.colour, ls=look.line, linewidth=0.7)
        axes.plot(own[x].iloc[-1], own["validation_loss"].iloc[-1], "x", color=look.colour, mew=1.5)
    if whole.any():
        draw_mean(axes, curve[whole], x, "validation_loss", look)


def draw_mean(axes: Axes, curve: pd.DataFrame, x: str, y: str, look: Look) -> None:
    """Draws the mean over seeds and, if there are several, a band from the least to the greatest.

    Evaluations are matched by their order and not by their step, because asynchronous ranks evaluate at
    different steps in each trial.
    """
    at = curve.groupby(curve.groupby("run_id").cumcount())
    means, loss = at[x].mean(), at[y].agg(["mean", "min", "max"])
    if curve["run_id"].nunique() > 1:
        axes.fill_between(means, loss["min"], loss["max"], color=look.colour, alpha=0.2, lw=0)
    last, every = len(loss) - 1, max(1, len(loss) // 5)
    axes.plot(
        means,
        loss["mean"],
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        mfc=look.fill,
        markevery=(last % every, every),  # counted from the end, so that the last point has a mark
    )


def _levels(results: Results) -> list[Label]:
    """The target, if there is one, and the lowest loss that any model can reach, if it is known."""
    levels = []
    if (goal := target(results)) is not None:
        levels.append(Label(goal, f"target {goal:g}", Look(GREY, line="--")))
    lowest = results.benchmark["data"].get("bayes_log_loss")
    if lowest is not None:
        levels.append(Label(lowest, f"Bayes {lowest:.4g}", Look(GREY, line=":")))
    return levels


def _focus(
    losses: "pd.Series[float]", goal: float | None, levels: list[Label]
) -> tuple[float, float]:
    """Limits of the vertical axis that separate the losses near the target, or else the lower losses.

    The first, high losses are cut off. A Bayes loss far below the others stays outside.
    """
    goals = [] if goal is None else [goal]
    low = min(float(losses.min()), *goals, math.inf)
    high = max(float(losses.quantile(SHOWN)), *goals, -math.inf)
    heights = [level.height for level in levels]
    low = min([low, *(height for height in heights if height > low - 0.3 * (high - low))])
    if low > 0 and high > 5 * low:
        return low / (high / low) ** 0.05, high * (high / low) ** 0.05
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _within(level: Label, low: float) -> Label:
    """The label of a level. A level below the axis has its label at the lower edge."""
    return level if level.height >= low else Label(low, f"{level.text}, below", level.look)


def _right_end(curves: pd.DataFrame, x: str) -> float:
    """The right end of the axis. A baseline that runs much longer than the others is cut off."""
    own = curves[curves["algorithm"] != "baseline"]
    longest, end = float(curves[x].max()), float(own[x].max())
    return 1.04 * (end if longest > 1.5 * end else longest)


def short_number(value: float, _: object) -> str:
    """Formats a number for an axis, e.g. `1,500` or `300k`."""
    return f"{value / 1000:,g}k" if abs(value) >= 10_000 else f"{value:,g}"
