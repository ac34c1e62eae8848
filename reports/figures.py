"""The figures of a report, one function each, drawn from what MLflow holds of a benchmark."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from reports.results import Results

WIDTH, HEIGHT = 6.7, 2.9  # inches: the text width of an A4 page
# Okabe and Ito's colours, safe for the colour-blind, without the yellow that fades on white.
BASELINE_COLOUR = "#000000"
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
GREY = "#666666"
LINE_STYLES: list[Any] = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2))]
MARKERS = ["o", "s", "^", "D", "v", "P"]
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # matplotlib's own, the same on every machine
    "font.size": 7.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "svg.fonttype": "path",
    "svg.hashsalt": "paceline",  # ids of elements would differ from one call to the next
    "text.parse_math": False,  # a $ in a name is a $
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}


class NothingToDraw(ValueError):
    """The results hold nothing that this figure could show; the message says what is lacking."""


@dataclass(frozen=True)
class Look:
    """How a number of workers of an algorithm is drawn, the same in every figure.

    Markers are hollow where there were more ranks than cores.
    """

    colour: str
    marker: str = ""
    line: Any = "-"
    hollow: bool = False

    @property
    def fill(self) -> str:
        return "white" if self.hollow else self.colour


@dataclass(frozen=True)
class Label:
    """A name to be written beside the axes, near `height` in data units."""

    height: float
    text: str
    look: Look


def names(results: Results) -> dict[str, str]:
    """What the report calls each algorithm: its title, with its label where two share a title."""
    titles = results.benchmark["titles"]
    shared = {t for t in titles.values() if list(titles.values()).count(t) > 1}
    return {k: f"{title} ({k})" if title in shared else title for k, title in titles.items()}


def counted(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def si_bytes(number: float) -> str:
    """Bytes with a decimal prefix and three significant digits, e.g. `1.96 GB`."""
    for exponent, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if number >= 0.9995 * 10**exponent:
            return f"{number / 10**exponent:#.3g}".rstrip(".") + f" {unit}"
    return f"{number:.0f} B"


def finished(results: Results) -> pd.DataFrame:
    """The trials that ran to their end."""
    return results.trials.loc[results.trials["status"] == "FINISHED"]


def configurations(rows: pd.DataFrame) -> list[tuple[str, int, pd.DataFrame]]:
    """Algorithm, workers and their rows, of trials or of curves, in the order of the rows."""
    groups: Any = rows.groupby(["algorithm", "workers"], sort=False)
    return [(algorithm, int(workers), own) for (algorithm, workers), own in groups]


def any_oversubscribed(trials: pd.DataFrame) -> bool:
    """Whether one of these trials had more ranks than cores."""
    return bool(trials["oversubscribed"].eq(True).any())


def reference(results: Results) -> pd.DataFrame:
    """The trials whose examples per second count as a speedup of 1, one a seed.

    Those on the fewest workers: the baseline's where it is among them, else the first algorithm's.

    Raises:
        NothingToDraw: no trial finished.
    """
    trials = finished(results)
    if trials.empty:
        raise NothingToDraw("no trial finished")
    fewest = trials[trials["workers"] == trials["workers"].min()]
    labels = fewest["algorithm"].tolist()
    chosen = "baseline" if "baseline" in labels else labels[0]
    base: pd.DataFrame = fewest[fewest["algorithm"] == chosen]
    return base


def loss_against_steps(results: Results) -> Figure:
    """Validation loss of every algorithm and number of workers, against steps."""
    return _loss_curves(results, "step", "steps")


def loss_against_seconds(results: Results) -> Figure:
    """Validation loss of every algorithm and number of workers, against training time."""
    return _loss_curves(results, "train_seconds", "training time (s), evaluation excluded")


def speedup(results: Results) -> Figure:
    """Examples per second relative to `reference`, against workers, beside the ideal line."""
    trials, base = finished(results), reference(results)
    if trials["workers"].nunique() < 2:
        raise NothingToDraw("every trial that finished ran on the same number of workers")
    figure, axes = _panel(results, "speedup of training throughput")
    looks, called = _looks(results), names(results)
    unit = base["examples_per_s"].mean()
    counts = [int(workers) for workers in sorted(trials["workers"].unique())]
    ideal = [count / counts[0] for count in counts]
    grey = Look(GREY, line=":")
    axes.plot(counts, ideal, color=GREY, linestyle=":", linewidth=1)
    labels = [Label(ideal[-1], "ideal: as many times the workers", grey)]
    for algorithm in trials["algorithm"].unique():
        own = configurations(trials[trials["algorithm"] == algorithm])
        points = {workers: rows["examples_per_s"] / unit for _, workers, rows in own}
        means = {workers: point.mean() for workers, point in sorted(points.items())}
        colour = looks[algorithm, own[0][1]].colour
        axes.plot(list(means), list(means.values()), color=colour)
        for workers, point in points.items():
            look = looks[algorithm, workers]
            axes.vlines(workers, point.min(), point.max(), color=colour)
            axes.plot(workers, means[workers], look.marker, color=colour, mfc=look.fill)
        sole = Look(colour, look.marker, "none", look.hollow) if len(means) == 1 else Look(colour)
        labels.append(Label(means[max(means)], called[algorithm], sole))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("workers")
    axes.set_ylabel(f"examples/s, relative to {counted(counts[0], 'worker')}")
    _write_beside(axes, labels, figure.get_figheight() - 0.8)
    return figure


def bytes_sent(results: Results) -> Figure:
    """Bytes that a worker sent in a whole trial, measured and expected."""
    trials = finished(results)
    trials = trials[trials["workers"] > 1]
    if trials.empty:
        raise NothingToDraw("no trial on more than one worker finished, so nothing was sent")
    groups = configurations(trials)
    figure, axes = _panel(results, "bytes sent per worker", height=0.9 + 0.27 * len(groups))
    looks, called = _looks(results), names(results)
    shown = []
    for row, (algorithm, workers, own) in enumerate(groups):
        look = looks[algorithm, workers]
        measured = own["bytes_sent_per_worker"].mean()
        expected = own["expected_bytes_per_worker"].mean()
        axes.plot(expected, row, "|", color=GREY, markersize=13, markeredgewidth=1.6)
        axes.plot(measured, row, look.marker, color=look.colour, mfc=look.fill, markersize=5)
        text = _compared(measured, expected)
        axes.annotate(text, (1.02, row), xycoords=axes.get_yaxis_transform(), va="center")
        shown += [value for value in (measured, expected) if value > 0]
    axes.set_yticks(
        range(len(groups)), [f"{called[a]}, {counted(w, 'worker')}" for a, w, _ in groups]
    )
    axes.set_ylim(len(groups) - 0.4, -0.6)
    if shown and max(shown) > 100 * min(shown):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, 1.08 * max(shown, default=1.0))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.set_xlabel("bytes sent per worker over the whole trial")
    axes.grid(visible=False, axis="y")
    return figure


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "loss_against_steps": loss_against_steps,
    "loss_against_seconds": loss_against_seconds,
    "speedup": speedup,
    "bytes_sent": bytes_sent,
}


def svg(draw: Callable[[Results], Figure], results: Results) -> bytes:
    """A figure as SVG, the same bytes for the same results whatever the person's matplotlib style.

    Raises:
        NothingToDraw: the results hold nothing to draw.
    """
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        draw(results).savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _looks(results: Results) -> dict[tuple[str, int], Look]:
    trials = results.trials
    colours = {"baseline": BASELINE_COLOUR}
    for label in trials["algorithm"]:
        colours.setdefault(label, COLOURS[(len(colours) - 1) % len(COLOURS)])
    order = {workers: i for i, workers in enumerate(sorted(trials["workers"].unique()))}
    return {
        (algorithm, workers): Look(
            colours[algorithm],
            MARKERS[order[workers] % len(MARKERS)],
            LINE_STYLES[order[workers] % len(LINE_STYLES)],
            hollow=any_oversubscribed(rows),
        )
        for algorithm, workers, rows in configurations(trials)
    }


def _panel(results: Results, title: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_subplot()
    # A figure is also looked at alone, so it says itself where it comes from.
    source = results.benchmark["name"]
    if results.benchmark["data"]["synthetic"]:
        source += ", synthetic data"
    axes.set_title(f"{source}: {title}")
    return figure, axes


def _loss_curves(results: Results, x: str, xlabel: str) -> Figure:
    curves = results.curves[np.isfinite(results.curves["validation_loss"].astype(float))]
    if curves.empty:
        raise NothingToDraw("no trial got as far as its first evaluation")
    groups = configurations(curves)
    lines = len(groups) + 2
    figure, axes = _panel(results, "validation loss", height=max(HEIGHT, 0.9 + 0.16 * lines))
    looks, called = _looks(results), names(results)
    complete = set(finished(results)["run_id"])
    labels = []
    for algorithm, workers, curve in groups:
        look, name = looks[algorithm, workers], f"{called[algorithm]}, {counted(workers, 'worker')}"
        whole = curve["run_id"].isin(complete)
        for run_id in curve.loc[~whole, "run_id"].unique():
            _draw_unfinished(axes, curve[curve["run_id"] == run_id], x, look)
        if whole.any():
            curve = curve[whole]
            _draw_mean(axes, curve, x, look)
        else:
            name += " (unfinished)"
        last = curve[curve["step"] == curve["step"].max()]
        labels.append(Label(last["validation_loss"].mean(), name, look))
    labels += _draw_levels(axes, results)
    if curves["validation_loss"].max() > 5 * curves["validation_loss"].min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(f"validation {results.benchmark['loss_name']}")
    _write_beside(axes, labels, figure.get_figheight() - 0.8)
    return figure


def _draw_mean(axes: Axes, curve: pd.DataFrame, x: str, look: Look) -> None:
    """The mean over seeds, and a band from the least to the greatest where there are several."""
    at = curve.assign(at=curve[x]).groupby("step")["at"].mean()
    loss = curve.groupby("step")["validation_loss"].agg(["mean", "min", "max"])
    if curve["run_id"].nunique() > 1:
        axes.fill_between(at, loss["min"], loss["max"], color=look.colour, alpha=0.2, linewidth=0)
    last, every = len(loss) - 1, max(1, len(loss) // 6)
    axes.plot(
        at,
        loss["mean"],
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        mfc=look.fill,
        markevery=(last % every, every),  # counted from the end, so that the last has one
    )


def _draw_unfinished(axes: Axes, curve: pd.DataFrame, x: str, look: Look) -> None:
    """A trial that did not finish: thin, with a cross where it stopped."""
    axes.plot(
        curve[x], curve["validation_loss"], color=look.colour, linestyle=look.line, linewidth=0.7
    )
    axes.plot(curve[x].iloc[-1], curve["validation_loss"].iloc[-1], "x", color=look.colour, mew=1.5)


def _draw_levels(axes: Axes, results: Results) -> list[Label]:
    """The target and, of data whose truth is known, the lowest loss that any model can reach."""
    target = results.benchmark["benchmark"]["workload"]["target"]["loss"]
    levels = [Label(target, f"target {target:g}", Look(GREY, line="--"))]
    lowest = results.benchmark["data"].get("bayes_log_loss")
    if lowest is not None:
        levels.append(Label(lowest, f"Bayes {lowest:.4g}", Look(GREY, line=":")))
    for level in levels:
        axes.axhline(level.height, color=GREY, linestyle=level.look.line, linewidth=1, zorder=1)
    return levels


def _compared(measured: float, expected: float) -> str:
    if not expected > 0:
        return si_bytes(measured)
    return f"{si_bytes(measured)}, {100 * measured / expected:.2f} % of expected"


def _write_beside(axes: Axes, labels: list[Label], inches: float) -> None:
    """Writes labels right of the axes, each as near to its height as the others leave room.

    Args:
        inches: height of the axes, roughly.
    """
    axes.set_ylim(axes.get_ylim())  # labels are placed by these limits, so they are final
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted((to_axes.transform((1, label.height))[1], i) for i, label in enumerate(labels))
    heights = spread([height for height, _ in placed], gap=0.15 / inches)
    for height, (_, i) in zip(heights, placed, strict=True):
        look = labels[i].look
        handle = Line2D(
            [1.02, 1.06, 1.10],
            [height] * 3,
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            mfc=look.fill,
            markevery=[1],
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.add_line(handle)
        axes.text(
            1.12,
            height,
            labels[i].text,
            color=look.colour,
            transform=axes.transAxes,
            va="center_baseline",
        )


def spread(wanted: list[float], gap: float) -> list[float]:
    """Heights in [0, 1] at least `gap` apart, nearest to those wanted in the least squares.

    Less the i gaps below it, the height of label i must only not decrease: that is an isotonic
    regression, solved by pooling neighbours in the wrong order.

    Args:
        wanted: ascending.
        gap: as a part of the whole height.
    """
    pools: list[list[float]] = []
    for i, height in enumerate(wanted):
        pools.append([height - i * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [fmean(pool) for pool in pools for _ in pool]
    highest = max(0.0, 1 - gap * (len(wanted) - 1))
    return [min(max(level, 0.0), highest) + i * gap for i, level in enumerate(levels)]
