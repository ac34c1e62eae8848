"""The look of the figures: colours, marks, frames and labels. All figures share it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from scipy.optimize import isotonic_regression

from paceline.reports.measures.groups import (
    any_oversubscribed,
    configurations,
    counted,
    crowded,
    names,
)
from paceline.reports.measures.results import Results

WIDTH, HEIGHT = 6.7, 2.9  # inches: the text width of an A4 page
PANELS_A_ROW = 3
TICKS = 9  # the most ticks on a logarithmic axis
BASELINE_COLOUR, BASELINE_MARKER = "#000000", "o"
# Colours for colour-blind readers. First come Okabe and Ito's colours without yellow, which is hard to
# see on white. Then come wine, olive and indigo of Tol's muted scheme.
COLOURS = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#882255",
    "#999933",
    "#332288",
]
# The numbers of markers and colours are coprime, so no pair repeats before all pairs are used.
MARKERS = ["s", "^", "D", "v", "P", "<", ">", "X", "p", "h", "*"]
LINE_STYLES: list[Any] = ["-", "--", "-.", (0, (5, 1, 1, 1, 1, 1))]
GREY = "#666666"
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 8,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same on every machine
    "font.size": 7.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "svg.fonttype": "path",
    "svg.hashsalt": "paceline",  # without it, ids of elements differ from call to call
    "text.parse_math": False,  # a $ in a name does not start a formula
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}


@dataclass(frozen=True)
class Look:
    """The look of a configuration. It is the same in every figure.

    Colour, marker and line belong to the algorithm. Marks are hollow if there were more ranks than
    cores.
    """

    colour: str
    marker: str = ""
    line: Any = "-"
    hollow: bool = False

    @property
    def fill(self) -> str:
        return "white" if self.hollow else self.colour

    def handle(self, label: str) -> Line2D:
        """The entry of a legend: the algorithm's line with a filled mark."""
        return Line2D([], [], color=self.colour, marker=self.marker, ls=self.line, label=label)


@dataclass(frozen=True)
class Label:
    """A name to write beside the axes, near `height` in data units."""

    height: float
    text: str
    look: Look


def looks(results: Results) -> dict[tuple[str, int], Look]:
    """The look of each algorithm and number of workers."""
    trials = results.trials
    others = [label for label in trials["algorithm"].unique() if label != "baseline"]
    styles: dict[str, tuple[str, str, Any]] = {"baseline": (BASELINE_COLOUR, BASELINE_MARKER, "-")}
    for i, label in enumerate(others):
        line = LINE_STYLES[i // len(COLOURS) % len(LINE_STYLES)]
        styles[label] = (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], line)
    return {
        (algorithm, workers): Look(*styles[algorithm], hollow=any_oversubscribed(rows))
        for algorithm, workers, rows in configurations(trials)
    }


def panel(results: Results, title: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Makes a figure with one panel. `height` is in inches."""
    figure = Figure(figsize=(WIDTH, height))
    _head(figure, results, title)
    return figure, figure.add_subplot()


def panels(
    results: Results, title: str, number: int, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with several panels, `PANELS_A_ROW` side by side.

    Args:
        results: the results to draw.
        title: the title of the figure.
        number: the number of panels.
        height: the height of a row of panels, in inches.
        sharey: whether all panels have the same vertical axis.
    """
    columns = min(number, PANELS_A_ROW)
    rows = -(-number // columns)
    figure = Figure(figsize=(WIDTH, 0.3 + rows * height))
    _head(figure, results, title)
    grid = figure.subplots(rows, columns, sharey=sharey, squeeze=False).flatten()
    for spare in grid[number:]:
        spare.remove()
    return figure, list(grid[:number])


def panels_by_workers(
    results: Results, title: str, counts: list[int], height: float
) -> tuple[Figure, dict[int, Axes]]:
    """Makes a figure with a panel for each number of workers. All panels share the vertical axis.

    Args:
        results: the results to draw.
        title: the title of the figure.
        counts: the numbers of workers.
        height: the height of a row of panels, in inches.
    """
    figure, drawn = panels(results, title, len(counts), height, sharey=True)
    full = crowded(results)
    for count, axes in zip(counts, drawn, strict=True):
        ranks = ", more ranks than cores" if count in full else ""
        axes.set_title(f"{counted(count, 'worker')}{ranks}")
    return figure, dict(zip(counts, drawn, strict=True))


def _head(figure: Figure, results: Results, title: str) -> None:
    # Readers also see a figure without its report, so the title names the benchmark.
    source = results.benchmark["name"]
    if results.benchmark["data"]["synthetic"]:
        source += ", synthetic data"
    figure.suptitle(f"{source}: {title}", x=0.01, horizontalalignment="left")


def legend(figure: Figure, handles: list[Line2D], note: str = "") -> None:
    """Adds one legend for all panels below them, in as many columns as fit, with `note` above it."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(WIDTH / (0.55 + 0.066 * longest))))
    rows = -(-len(handles) // columns)
    title = fill(note, 115)
    lines = rows + len(title.splitlines())
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.165 * lines)
    box = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title=title or None,
        borderpad=0.2,
        labelspacing=0.35,
    )
    box.set_alignment("left")


def algorithm_handles(results: Results, labels: Iterable[str]) -> list[Line2D]:
    """The entries of a legend for these algorithms, in the order of the report."""
    wanted, own = set(labels), {label: look for (label, _), look in looks(results).items()}
    named = names(results)
    return [look.handle(named[label]) for label, look in own.items() if label in wanted]


def hollow_handle() -> Line2D:
    """The entry of a legend that says what a hollow mark means."""
    return Line2D([], [], color=GREY, marker="o", mfc="white", ls="", label="more ranks than cores")


def workers_axis(axes: Axes, counts: list[int]) -> None:
    """Sets a logarithmic horizontal axis of workers, with a tick at each count and no other."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlim(counts[0] / 2**0.4, counts[-1] * 2**0.4)
    axes.set_xlabel("workers")


def readable_log_ticks(axes: Axes) -> None:
    """Sets readable ticks on a logarithmic vertical axis, at least four if the limits leave room.

    Call it when the limits are final.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ticks: list[float] = []
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), [1 + 0.1 * i for i in range(90)]):
        every = [step * 10.0**power for power in range(-12, 13) for step in steps]
        ticks = [tick for tick in every if low <= tick <= high]
        if len(ticks) >= 4:
            break
    shown: list[float] = []
    for tick in sorted(
        ticks, key=lambda tick: -tick
    ):  # ticks just below a power of ten lie close together
        if not shown or math.log(shown[-1] / tick) > math.log(high / low) / TICKS:
            shown.append(tick)
    axes.yaxis.set_major_locator(FixedLocator(shown[::-1]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def write_beside(axes: Axes, labels: list[Label], inches: float) -> None:
    """Writes labels to the right of the axes, each as near to its height as the others allow.

    Args:
        axes: the axes. Their limits must be final.
        labels: the labels to write.
        inches: the approximate height of the axes.
    """
    axes.set_ylim(axes.get_ylim())  # the positions of the labels depend on these limits
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted((to_axes.transform((1, label.height))[1], i) for i, label in enumerate(labels))
    heights = spread([height for height, _ in placed], gap=0.15 / inches)
    figure: Any = axes.figure
    to_pixels: Any = axes.transAxes
    right_edge = ScaledTranslation(1, 0, to_pixels)
    beside = blended_transform_factory(figure.dpi_scale_trans + right_edge, axes.transAxes)
    for height, (_, i) in zip(heights, placed, strict=True):
        look = labels[i].look
        handle = Line2D(
            [0.06, 0.18, 0.30],  # inches
            [height] * 3,
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            mfc=look.fill,
            markevery=[1],
            transform=beside,
            clip_on=False,
        )
        axes.add_line(handle)
        axes.text(
            0.36, height, labels[i].text, color=look.colour, transform=beside, va="center_baseline"
        )


def spread(wanted: list[float], gap: float) -> list[float]:
    """Heights in [0, 1] that are at least `gap` apart and nearest to the wanted ones in least squares.

    Label i has i gaps below it. After these gaps are subtracted, the heights only have to be
    non-decreasing. This is an isotonic regression.

    Args:
        wanted: the wanted heights in ascending order.
        gap: the least distance, as a fraction of the whole height.
    """
    levels = isotonic_regression([height - i * gap for i, height in enumerate(wanted)]).x
    highest = max(0.0, 1 - gap * (len(wanted) - 1))
    return [min(max(level, 0.0), highest) + i * gap for i, level in enumerate(levels)]
