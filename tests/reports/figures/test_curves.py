"""Curves of the loss."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from paceline.reports.figures import catalogue, curves, look
from paceline.reports.measures import groups
from paceline.reports.measures.groups import NothingToDraw
from paceline.reports.measures.results import Results
from tests.drawn import crosses, legend_of, lines_of, text_in
from tests.report_store import EVERY


def test_loss_curves_are_means_over_seeds_with_a_band_and_labelled_levels(whole: Results) -> None:
    figure = curves.loss_against_steps(whole)
    two, four = figure.axes
    assert (two.get_title("left"), four.get_title("left")) == (
        "2 workers",
        "4 workers, more ranks than cores",
    )
    for axes in (two, four):
        baseline, own = lines_of(axes, 4)
        assert baseline.get_color() == look.BASELINE_COLOUR
        assert list(own.get_xdata()) == [100, 200, 300, 400]
        assert list(own.get_ydata()) == pytest.approx([0.7, 0.55, 0.45, 0.44])
        assert len(axes.collections) == 2
    assert list(legend_of(figure)) == ["baseline", "synchronous SGD"]
    assert {"target 0.5", "Bayes 0.4"} <= set(text_in(figure))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("loss_against_steps", "step"),
        ("loss_against_examples", "examples"),
        ("loss_against_seconds", "train_seconds"),
        ("loss_against_bytes", "bytes_sent_per_worker"),
    ],
)
def test_each_panel_has_a_curve_an_algorithm_at_its_values(
    name: str, column: str, every: Results
) -> None:
    figure = catalogue.FIGURES[name](every)
    silent = {"baseline", "independent"} if name == "loss_against_bytes" else set()
    shown = [label for label in EVERY if label not in silent]
    for workers, axes in zip((2, 4), figure.axes, strict=True):
        lines = {line.get_color(): line for line in lines_of(axes, 4)}
        assert len(lines) == len(shown)
        admm = every.curves[
            (every.curves["algorithm"] == "admm") & (every.curves["workers"] == workers)
        ]
        means = admm.groupby("step")[column].mean() if column != "step" else admm["step"].unique()
        line = lines[look.looks(every)["admm", workers].colour]
        assert list(line.get_xdata()) == pytest.approx(list(means))
    assert set(legend_of(figure)) == {groups.names(every)[label] for label in shown}


def test_algorithms_that_send_nothing_are_told_where_bytes_are_drawn(every: Results) -> None:
    figure = curves.loss_against_bytes(every)
    assert "Not drawn, as nothing is sent: baseline and independent replicas." in text_in(figure)
    assert all(axes.get_xscale() == "log" for axes in figure.axes)


def test_bytes_are_not_drawn_where_nobody_sent_any(whole: Results) -> None:
    alone = replace(whole, curves=whole.curves.assign(bytes_sent_per_worker=0.0))
    with pytest.raises(NothingToDraw, match="no trial sent anything"):
        curves.loss_against_bytes(alone)


def test_high_losses_at_the_start_do_not_squeeze_those_near_the_target(whole: Results) -> None:
    first = whole.curves["step"] == 100
    steep = whole.curves["validation_loss"].mask(first, 30.0)
    many = pd.concat([whole.curves.assign(validation_loss=steep), *[whole.curves[~first]] * 3])
    axes: Any = curves.loss_against_steps(replace(whole, curves=many)).axes[0]
    low, high = axes.get_ylim()
    assert low < 0.4
    assert 0.6 <= high < 1


def test_a_bayes_loss_far_below_is_told_but_does_not_widen_the_axis(whole: Results) -> None:
    data = whole.benchmark["data"] | {"bayes_log_loss": 0.1}
    figure = curves.loss_against_steps(replace(whole, benchmark=whole.benchmark | {"data": data}))
    assert "Bayes 0.1, below" in text_in(figure)
    assert figure.axes[0].get_ylim()[0] > 0.4


def test_a_baseline_that_takes_many_more_steps_is_cut_off(whole: Results) -> None:
    alone = whole.curves["algorithm"] == "baseline"
    slow = whole.curves.assign(step=whole.curves["step"].mask(alone, whole.curves["step"] * 4))
    figure = curves.loss_against_steps(replace(whole, curves=slow))
    assert all(400 < axes.get_xlim()[1] < 500 for axes in figure.axes)


def test_without_other_algorithms_the_baseline_has_a_panel(whole: Results) -> None:
    own = whole.curves[whole.curves["algorithm"] == "baseline"]
    (axes,) = curves.loss_against_steps(replace(whole, curves=own)).axes
    assert axes.get_title("left") == "1 worker"
    assert len(lines_of(axes, 4)) == 1


def test_an_unfinished_trial_is_drawn_to_where_it_stopped(partial: Results) -> None:
    figure = curves.loss_against_seconds(partial)
    two, four = figure.axes
    (cross,) = crosses(four)
    assert crosses(two) == []
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (pytest.approx(8 / 1.2), 0.6)
    assert "did not finish" in legend_of(figure)


def test_without_a_target_no_line_is_drawn_for_one(aimless: Results) -> None:
    figure = curves.loss_against_steps(aimless)
    assert not [text for text in text_in(figure) if "target" in text]
    for axes in figure.axes:
        assert not [line for line in axes.lines if line.get_linestyle() == "--"]
        assert axes.get_ylim()[0] < -1.0
