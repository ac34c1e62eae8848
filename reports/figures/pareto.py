"""The Pareto front of time and bytes to the target."""

from collections.abc import Iterable
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from paceline.reports.figures.look import GREY, hollow_handle, legend, looks, panel
from paceline.reports.measures.groups import (
    MEASURED,
    NothingToDraw,
    Timing,
    always_reached,
    called,
    configurations,
    ended,
    listed,
    names,
    rankable,
    ranked,
    target,
    timed,
)
from paceline.reports.measures.results import Results

Segment = tuple[tuple[float, float], tuple[float, float]]
SIDES = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
DISTANCES = [7, 12, 18, 26, 36, 48, 62, 80]  # points from a mark to its label


def pareto(results: Results, times: Timing = MEASURED) -> Figure:
    """Draws seconds to the target against bytes that a worker sends until then.

    Each configuration has one mark. The front joins the configurations that no other beats in both.

    Raises:
        NothingToDraw: no configuration reached the target with every seed, may be ranked and has times
            of this kind.
    """
    if target(results) is None:
        raise NothingToDraw("the workload has no target")
    reached = [group for group in ranked(results) if not timed(group[2], times).empty]
    if not reached:
        raise NothingToDraw(_nobody(results, times))
    height = max(3.3, 2.2 + 0.07 * len(reached))  # more names need more room
    figure, axes = panel(results, f"time ({times.how}) and bytes to the target", height)
    columns = [times.seconds, "bytes_to_target"]
    points = {(a, n): tuple(rows[columns].astype(float).mean()) for a, n, rows in reached}
    _limits(axes, *(pd.Series(values) for values in zip(*points.values(), strict=True)))
    front = _front(points.values())
    front = [(front[0][0], axes.get_ylim()[1]), *front, (axes.get_xlim()[1], front[-1][1])]
    axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1, zorder=1)
    marks = {}
    bars: list[Segment] = []
    for algorithm, workers, rows in reached:
        look, (x, y) = looks(results)[algorithm, workers], points[algorithm, workers]
        least, greatest = rows[columns].astype(float).min(), rows[columns].astype(float).max()
        bars += [((least.iloc[0], y), (greatest.iloc[0], y))]
        bars += [((x, least.iloc[1]), (x, greatest.iloc[1]))]
        for (left, low), (right, high) in bars[-2:]:
            axes.plot([left, right], [low, high], color=look.colour, linewidth=0.8)
        axes.plot(x, y, look.marker, color=look.colour, mfc=look.fill, ms=5.5, clip_on=False)
        marks[f"{names(results)[algorithm]}, {workers}"] = (x, y, look.colour)
    axes.set_xlabel(f"training time to the target (s, {times.how})")
    axes.set_ylabel("bytes sent per worker to the target")
    handles = [Line2D([], [], color=GREY, lw=1, label="Pareto front")]
    if any(looks(results)[key].hollow for key in points):
        handles.append(hollow_handle())
    notes = ["A name is followed by its number of workers.", *_absent(results, times)]
    legend(figure, handles, " ".join(notes))
    for (x, y), (next_x, next_y) in pairwise(front):
        bars += [((x, y), (next_x, y)), ((next_x, y), (next_x, next_y))]
    _write_at_marks(figure, axes, marks, bars)
    return figure


def _nobody(results: Results, times: Timing) -> str:
    """The reason why the figure has no mark."""
    if not always_reached(results):
        return "no configuration reached the target in all its trials that ended"
    if not ranked(results):
        return "no configuration that reached the target in all its trials may be ranked"
    return f"no configuration that reached the target has times that are {times.how}"


def _absent(results: Results, times: Timing) -> list[str]:
    """Sentences that list the configurations without a mark, one for each reason."""
    reached = {(a, n) for a, n, _ in always_reached(results)}
    reasons: dict[str, list[str]] = {}
    for algorithm, workers, rows in configurations(ended(results)):
        if (algorithm, workers) not in reached:
            reason = "Target not always reached"
        elif not rankable(rows):
            reason = "Not ranked"
        elif timed(rows, times).empty:
            reason = "More ranks than cores"
        else:
            continue
        reasons.setdefault(reason, []).append(called(results, algorithm, workers))
    return [f"{reason}: {listed(own)}." for reason, own in reasons.items()]


def _front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other point beats in both time and bytes."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _limits(axes: Axes, seconds: "pd.Series[float]", sent: "pd.Series[float]") -> None:
    """Sets limits with room around the points. The axis of bytes shows 0 and powers of ten."""
    if seconds.max() > 10 * seconds.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(seconds.min() / 1.4, seconds.max() * 1.6)
    else:
        room = max(float(seconds.max() - seconds.min()), 0.1 * float(seconds.max()))
        axes.set_xlim(max(0.0, seconds.min() - 0.15 * room), seconds.max() + 0.25 * room)
    positive = sent[sent > 0]
    if positive.empty:
        axes.set_ylim(-1, 1)
        axes.set_yticks([0])
        return
    least = 10.0 ** int(len(f"{positive.min():.0f}") - 1)
    axes.set_yscale("symlog", linthresh=least, linscale=0.6)
    powers = [least * 10.0**i for i in range(16) if least * 10.0**i <= 10 * sent.max()]
    axes.set_yticks([0.0, *powers])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(EngFormatter("B", sep=" "))
    axes.set_ylim(-0.35 * least if (sent == 0).any() else 0.5 * least, 2.5 * sent.max())


def _write_at_marks(
    figure: Figure,
    axes: Axes,
    marks: dict[str, tuple[float, float, str]],
    lines: list[Segment],
) -> None:
    """Writes each name as near to its mark as possible, without overlapping names, marks or lines.

    Args:
        figure: the figure, complete except for the names.
        axes: the axes. Their limits must be final.
        marks: horizontal and vertical position in data units and colour, by name.
        lines: vertical and horizontal lines in data units.
    """
    figure.draw_without_rendering()  # constrained layout moves the axes
    point = figure.dpi / 72  # pixels
    at = {name: axes.transData.transform((x, y)) for name, (x, y, _) in marks.items()}
    taken = [_box(place, 8 * point, 8 * point) for place in at.values()]
    for ends in lines:
        (x, y), (end_x, end_y) = axes.transData.transform(ends)
        taken.append(Bbox.from_extents(x, y, end_x, end_y).padded(0.5 * point))
    frame = axes.get_window_extent()
    for name, place in at.items():
        x, y, colour = marks[name]
        label = axes.annotate(
            name,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            color=colour,
            fontsize=7,
            horizontalalignment="center",
            verticalalignment="center",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
            zorder=2,
        )
        label.set_in_layout(False)
        size = Text.get_window_extent(label)
        box = _free_box(place, size.width + 4 * point, size.height + 2 * point, point, frame, taken)
        taken.append(box)
        middle = (box.p0 + box.p1) / 2
        offset = tuple((middle - place) / point)
        label.set_position(offset)
        if not box.padded(1.5 * DISTANCES[0] * point).contains(*place):
            leader = {"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
            axes.annotate(
                "", (x, y), offset, textcoords="offset points", arrowprops=leader, zorder=1
            )


def _free_box(
    place: "np.ndarray[Any, Any]",
    width: float,
    height: float,
    point: float,
    frame: Bbox,
    taken: list[Bbox],
) -> Bbox:
    """The first free box beside a mark, or the last one tried. All lengths are in pixels."""
    box = _box(place, width, height)
    for distance, (right, up) in product(DISTANCES, SIDES):
        away = point * distance * np.array([right, up]) + np.array([right * width, up * height]) / 2
        box = _box(place + away, width, height)
        inside = (
            frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        )
        if inside and not any(box.overlaps(other) for other in taken):
            break
    return box


def _box(middle: "np.ndarray[Any, Any]", width: float, height: float) -> Bbox:
    return Bbox.from_bounds(middle[0] - width / 2, middle[1] - height / 2, width, height)
