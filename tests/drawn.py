"""What is found in a figure, by the objects of which matplotlib draws it."""

from itertools import combinations
from typing import Any

from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text

HOLLOW = "#ffffff"


def text_in(figure: Figure) -> list[str]:
    found: list[Any] = figure.findobj(Text)
    return [text.get_text() for text in found]


def legend_of(figure: Figure) -> dict[str, Line2D]:
    """The samples in the legend by their labels."""
    (box,) = [item for item in figure.findobj(Legend) if isinstance(item, Legend)]
    labels = [text.get_text() for text in box.get_texts()]
    return dict(zip(labels, box.get_lines(), strict=True))


def lines_of(axes: Any, points: int) -> list[Any]:
    return [line for line in axes.lines if len(line.get_xdata()) == points]


def crosses(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_marker() == "x"]


def outside(figure: Figure) -> set[int]:
    """The ids of numbers at ticks beyond the ends of their axis, which are not drawn."""
    found = set()
    for axes in figure.axes:
        for labels, place, limits in (
            (axes.get_xticklabels(), 0, axes.get_xlim()),
            (axes.get_yticklabels(), 1, axes.get_ylim()),
        ):
            at = {id(label): label.get_position()[place] for label in labels}
            found |= {i for i, value in at.items() if not min(limits) <= value <= max(limits)}
    return found


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie upon each other."""
    figure.draw_without_rendering()
    hidden = outside(figure)
    found: list[Any] = [text for text in figure.findobj(Text) if id(text) not in hidden]
    drawn = [text for text in found if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), Text.get_window_extent(text).padded(-1)) for text in drawn]
    return [(a, b) for (a, box), (b, other) in combinations(boxes, 2) if box.overlaps(other)]
