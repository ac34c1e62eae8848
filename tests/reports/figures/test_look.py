"""What all figures have in common: axes, looks, labels, numbers."""

import warnings
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from paceline.reports.figures import catalogue, look
from paceline.reports.measures import groups
from paceline.reports.measures.results import Results
from tests.drawn import overlaps
from tests.report_store import EVERY


@pytest.mark.parametrize("name", catalogue.FIGURES)
def test_every_panel_names_the_quantities_on_its_axes(name: str, every: Results) -> None:
    panels: list[Any] = catalogue.FIGURES[name](every).axes
    assert panels
    assert all(axes.get_xlabel() for axes in panels)
    first = panels[0]
    assert first.get_ylabel() or all(label.get_text() for label in first.get_yticklabels())
    if panels[-1].get_ylabel() == "":  # then it has the first one's axis
        assert all(axes.get_ylim() == first.get_ylim() for axes in panels)


@pytest.mark.parametrize("name", catalogue.FIGURES)
def test_no_text_lies_upon_another(name: str, every: Results) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of axes without room for what stands beside them
        assert overlaps(catalogue.FIGURES[name](every)) == []


@pytest.mark.parametrize("name", catalogue.FIGURES)
def test_every_figure_fits_on_half_a_page_but_for_its_heading(name: str, every: Results) -> None:
    figure = catalogue.FIGURES[name](every)
    assert figure.get_figwidth() == look.WIDTH
    assert figure.get_figheight() < 6


def test_an_algorithm_has_one_colour_and_one_marker_and_shares_them_with_no_other(
    every: Results,
) -> None:
    styles: dict[str, set[tuple[str, str, Any]]] = {label: set() for label in EVERY}
    for (algorithm, _), own in look.looks(every).items():
        styles[algorithm].add((own.colour, own.marker, own.line))
    assert all(len(own) == 1 for own in styles.values())
    assert len({colour for own in styles.values() for colour, _, _ in own}) == len(EVERY)
    assert len({marker for own in styles.values() for _, marker, _ in own}) == len(EVERY)
    assert styles["baseline"] == {(look.BASELINE_COLOUR, look.BASELINE_MARKER, "-")}


def test_thirty_algorithms_can_still_be_told_apart(every: Results) -> None:
    rows = [every.trials.iloc[:1].assign(algorithm=f"algorithm {i}") for i in range(30)]
    many = look.looks(replace(every, trials=pd.concat(rows)))
    assert len({(own.colour, own.marker, str(own.line)) for own in many.values()}) == 30


@pytest.mark.parametrize("name", ["loss_against_steps", "loss_against_seconds", "bytes_sent"])
def test_marks_have_the_look_of_their_configuration(name: str, every: Results) -> None:
    allowed = {(own.colour, own.marker, own.fill) for own in look.looks(every).values()}
    marked = {
        (to_hex(line.get_color()).upper(), line.get_marker(), line.get_markerfacecolor())
        for axes in catalogue.FIGURES[name](every).axes
        for line in axes.lines
        if line.get_marker() in (look.BASELINE_MARKER, *look.MARKERS)
    }
    assert len(marked) >= 15
    assert marked <= allowed


def test_two_entries_of_one_algorithm_are_told_apart_by_their_labels(whole: Results) -> None:
    twice = {"baseline": "one", "sync_sgd": "SGD", "slow": "SGD"}
    named = replace(whole, benchmark=whole.benchmark | {"titles": twice})
    assert groups.names(named) == {
        "baseline": "one",
        "sync_sgd": "SGD (sync_sgd)",
        "slow": "SGD (slow)",
    }


@pytest.mark.parametrize(
    ("wanted", "placed"),
    [
        ([0.1, 0.5], [0.1, 0.5]),
        ([0.5, 0.5], [0.4, 0.6]),
        ([0.5, 0.5, 0.9], [0.4, 0.6, 0.9]),
        ([0.0, 0.0], [0.0, 0.2]),
        ([1.0, 1.0], [0.8, 1.0]),
    ],
)
def test_labels_move_as_little_as_keeps_them_apart(
    wanted: list[float], placed: list[float]
) -> None:
    assert look.spread(wanted, gap=0.2) == pytest.approx(placed)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.00 kB"), (12_345, "12.3 kB"), (123_456_789, "123 MB")],
)
def test_bytes_have_three_digits_and_a_prefix(number: float, text: str) -> None:
    assert groups.si_bytes(number) == text
