"""The figures of a report, looked at through the objects of which matplotlib draws them."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from mlflow.tracking import MlflowClient

from paceline.benchmarks.trials.store import open_store
from paceline.reports import pdf
from paceline.reports.figures import catalogue, curves, diagnostics, look, pareto, scaling
from paceline.reports.measures import groups
from paceline.reports.measures.groups import NothingToDraw
from paceline.reports.measures.results import Results
from paceline.reports.text.captions import captions
from tests.report_store import EVERY, REAL, benchmark, fill, fill_every

HOLLOW = "#ffffff"


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    folder: Path = tmp_path_factory.mktemp("figures")
    return open_store(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture(scope="session")
def whole(client: MlflowClient) -> Results:
    """Two seeds of everything; four workers share two cores."""
    plan = benchmark("whole", {"baseline": [1], "sync_sgd": [2, 4]}, [0, 1])
    return fill(client, plan, lambda trial: [0.7, 0.5 if trial.seed == 0 else 0.6, 0.45, 0.44])


@pytest.fixture(scope="session")
def partial(client: MlflowClient) -> Results:
    """Of three trials one finished, one failed on its way, and one was never started."""
    plan = benchmark("partial", {"baseline": [1], "sync_sgd": [2, 4]}, [0])
    return fill(client, plan, lambda _: [0.7, 0.6], REAL, {4: "rank 1 died"}, skipped=1)


@pytest.fixture(scope="session")
def every(client: MlflowClient) -> Results:
    return fill_every(client, "every")


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with matplotlib.style.context(["default", look.STYLE]):
        yield


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


# --- all of them ----------------------------------------------------------------------------------


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


# --- loss -----------------------------------------------------------------------------------------


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


# --- scaling --------------------------------------------------------------------------------------


def modelled(workers: int, points: int) -> float:
    """Seconds of the store's trials over 10 Gbit/s, up to one of the points of their curves.

    What they compute, and then a hundred messages of 40 bytes for each other worker a point.
    """
    computing = points * workers / {1: 1.0, 2: 1.5, 4: 1.2}[workers]
    messages = 100 * points if workers > 1 else 0
    return computing + messages * (30e-6 + 40 * (workers - 1) / 1.25e9)


def test_speedup_is_relative_to_the_baseline_and_hollow_with_more_ranks_than_cores(
    whole: Results,
) -> None:
    (axes,) = scaling.speedup(whole).axes
    marks = {
        line.get_xdata()[0]: (line.get_ydata()[0], to_hex(line.get_markerfacecolor()))
        for line in lines_of(axes, 1)
        if line.get_marker() != "None"
    }
    assert {n: mark[0] for n, mark in marks.items()} == pytest.approx(
        {n: 4 * n / modelled(n, 4) for n in (1, 2, 4)}
    )
    assert axes.get_ylabel() == "relative examples/s\n(modelled, ethernet-10g)"
    assert marks[4][1] == HOLLOW
    assert HOLLOW not in (marks[1][1], marks[2][1])
    assert len(axes.get_yticks()) >= 4
    caption = captions(whole)["speedup"][1]
    assert "baseline on 1 worker (1,000 examples/s)" in caption
    assert "more ranks than cores" in caption


def test_efficiencies_are_those_of_the_definition(whole: Results) -> None:
    figure = scaling.efficiency(whole)
    hardware, statistical, seconds = (
        {line.get_xdata()[0]: line.get_ydata()[0] for line in lines_of(axes, 1)}
        for axes in figure.axes
    )
    assert hardware == pytest.approx({n: 4 / modelled(n, 4) for n in (1, 2, 4)})
    # One seed needs 200 steps and the other 300; the reference needs 2,500 examples on average.
    assert statistical == pytest.approx(
        {n: (2500 / (2000 * n) + 2500 / (3000 * n)) / 2 for n in (1, 2, 4)}
    )
    assert seconds == pytest.approx({n: (modelled(n, 2) + modelled(n, 3)) / 2 for n in (1, 2, 4)})
    assert "modelled, ethernet-10g" in figure.axes[2].get_ylabel()
    assert "target not reached" not in legend_of(figure)
    assert "more ranks than cores" in legend_of(figure)


def test_where_every_rank_had_a_core_times_are_those_measured(whole: Results) -> None:
    sole = replace(whole, trials=whole.trials.assign(oversubscribed=False))
    *_, seconds = scaling.efficiency(sole).axes
    drawn = {line.get_xdata()[0]: line.get_ydata()[0] for line in lines_of(seconds, 1)}
    assert drawn == pytest.approx({1: 2.5, 2: 5 / 1.5, 4: 10 / 1.2})
    assert seconds.get_ylabel() == "training time (s)\n(measured)"


def test_a_configuration_that_missed_the_target_is_marked(every: Results) -> None:
    figure = scaling.efficiency(every)
    colour = look.looks(every)["codistillation", 4].colour
    assert [len(crosses(axes)) for axes in figure.axes] == [0, 1, 1]
    assert all(cross.get_color() == colour for axes in figure.axes for cross in crosses(axes))
    assert "target not reached" in legend_of(figure)
    marks = [[line.get_marker() for line in lines_of(axes, 1)] for axes in figure.axes]
    assert [len([m for m in own if m not in ("x", "None")]) for own in marks] == [17, 16, 16]


def test_where_the_reference_missed_the_target_nothing_is_divided_by_it(every: Results) -> None:
    trials = every.trials.copy()
    missed = trials["algorithm"] == "baseline"
    trials.loc[missed, "target_reached"] = False
    trials.loc[missed, ["examples_to_target", "modelled_time_to_target_s"]] = None
    _, statistical, _ = scaling.efficiency(replace(every, trials=trials)).axes
    assert all(line.get_marker() == "x" for line in lines_of(statistical, 1))
    assert "the reference did not reach the target" in [
        t.get_text().replace("\n", " ") for t in statistical.texts
    ]


def test_bytes_measured_stand_beside_bytes_expected(whole: Results) -> None:
    twice = 2 * whole.trials["bytes_sent_per_worker"]
    doubled = replace(whole, trials=whole.trials.assign(expected_bytes_per_worker=twice))
    labels = text_in(scaling.bytes_sent(doubled))
    assert "16.0 kB, 50.00 % of expected" in labels
    assert "baseline, 1" not in labels


def test_one_number_of_workers_has_no_scaling(partial: Results) -> None:
    for draw in (scaling.speedup, scaling.efficiency):
        with pytest.raises(NothingToDraw, match="same number of workers"):
            draw(partial)


# --- time against bytes ---------------------------------------------------------------------------


def placed(results: Results, points: dict[tuple[str, int], tuple[float, float]]) -> Results:
    """The results with other seconds and bytes to the target."""
    trials = results.trials.copy()
    for (algorithm, workers), (seconds, sent) in points.items():
        own = (trials["algorithm"] == algorithm) & (trials["workers"] == workers)
        trials.loc[own, "modelled_time_to_target_s"] = seconds
        trials.loc[own, "bytes_to_target"] = sent
    return replace(results, trials=trials)


def test_each_configuration_that_reached_the_target_is_a_named_point(every: Results) -> None:
    figure = pareto.pareto(every)
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.texts if text.get_text()]
    assert len(names) == 16
    assert {"baseline, 1", "consensus ADMM, 4", "codistillation, 2"} < set(names)
    assert any("Target not reached: codistillation on 4 workers." in t for t in text_in(figure))
    (admm,) = [
        line
        for line in lines_of(axes, 1)
        if line.get_marker() == look.looks(every)["admm", 4].marker
        and line.get_markerfacecolor() == "white"
    ]
    assert (admm.get_xdata()[0], admm.get_ydata()[0]) == pytest.approx(
        (1.3 * modelled(4, 3), 36_000), rel=0.01
    )


def test_the_front_joins_what_nothing_beats(every: Results) -> None:
    fast = {("downpour", 2): (1.0, 5e6), ("admm", 4): (2.0, 1e3), ("admm", 2): (2.0, 2e3)}
    (axes,) = pareto.pareto(placed(every, fast)).axes
    (front,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    from_top, *corners, to_right = zip(front.get_xdata(), front.get_ydata(), strict=True)
    assert corners == [(1.0, 5e6), (2.0, 1e3), (pytest.approx(3.5), 0.0)]
    assert from_top == (1.0, axes.get_ylim()[1])
    assert to_right == (axes.get_xlim()[1], 0.0)


def test_names_at_one_and_the_same_point_are_still_readable(every: Results) -> None:
    same = {(label, n): (5.0, 1e6) for label in EVERY for n in (1, 2, 4)}
    assert overlaps(pareto.pareto(placed(every, same))) == []


def test_without_the_target_there_is_nothing_to_compare(partial: Results) -> None:
    with pytest.raises(NothingToDraw, match="no configuration reached the target"):
        pareto.pareto(partial)


# --- the algorithms' own --------------------------------------------------------------------------


def test_staleness_is_the_share_of_all_pushes_with_the_mean_marked(every: Results) -> None:
    figure = diagnostics.staleness(every)
    two, four = figure.axes
    outlines = [axes.patches[0].get_path().vertices.tolist() for axes in (two, four)]
    for edge, share in ((-0.5, 25), (0.5, 50), (1.5, 25)):
        assert [edge, share] in outlines[0]
    for edge, share in ((-0.5, 25), (0.5, 50), (3.5, 25)):
        assert [edge, share] in outlines[1]
    assert [line.get_xdata()[0] for axes in (two, four) for line in axes.lines] == [1.0, 1.5]
    assert {"mean 1.00", "mean 1.50"} <= set(text_in(figure))
    assert list(legend_of(figure)) == ["Downpour SGD"]


def test_residuals_are_two_lines_on_a_logarithmic_axis(every: Results) -> None:
    figure = diagnostics.residuals(every)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        primal, dual = lines_of(axes, 4)
        assert axes.get_yscale() == "log"
        assert list(primal.get_ydata()) == pytest.approx([2.5] * 4)
        assert list(dual.get_ydata()) == pytest.approx([0.02] * 4)
        assert (primal.get_linestyle(), dual.get_linestyle()) == ("-", "--")
        assert len(axes.collections) == 2
    assert list(legend_of(figure)) == ["consensus ADMM", "primal", "dual"]


def test_divergence_is_drawn_for_each_entry_that_reports_it(every: Results) -> None:
    for axes in diagnostics.divergence(every).axes:
        assert [list(line.get_ydata()) for line in lines_of(axes, 4)] == [
            pytest.approx([1 / 100, 1 / 200, 1 / 300, 1 / 400])
        ] * 2


@pytest.mark.parametrize("name", ["staleness", "residuals", "divergence"])
def test_figures_of_algorithms_that_did_not_run_are_not_drawn(name: str, whole: Results) -> None:
    with pytest.raises(NothingToDraw, match="no trial that finished"):
        catalogue.FIGURES[name](whole)
    assert name in pdf.draw(whole)[1]


# --- names and numbers ----------------------------------------------------------------------------


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
