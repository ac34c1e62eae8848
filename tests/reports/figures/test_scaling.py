"""Speedup, efficiency and bytes against workers."""

from dataclasses import replace

import pytest
from matplotlib.colors import to_hex
from mlflow.tracking import MlflowClient

from paceline.benchmarks.spec.benchmark import Trial
from paceline.reports.figures import catalogue, look, scaling
from paceline.reports.measures import groups
from paceline.reports.measures.groups import NothingToDraw
from paceline.reports.measures.results import Results
from paceline.reports.text.captions import captions
from tests.drawn import HOLLOW, crosses, legend_of, lines_of, text_in
from tests.report_store import benchmark, fill, modelled
from tests.told import given


def test_speedup_is_relative_to_the_baseline_and_hollow_with_more_ranks_than_cores(
    whole: Results,
) -> None:
    (axes,) = scaling.speedup(whole, groups.modelled(whole)).axes
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
    caption = captions(whole)["speedup_modelled"][1]
    assert "baseline on 1 worker (1,000 examples/s)" in caption
    assert "more ranks than cores" in caption


def test_efficiencies_are_those_of_the_definition(whole: Results) -> None:
    figure = scaling.efficiency(whole, groups.modelled(whole))
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


def test_the_table_has_the_efficiency_of_the_figure_and_names_the_other(
    client: MlflowClient,
) -> None:
    plan = benchmark("twice", {"baseline": [1], "admm": [1, 2]}, [0, 1])

    def own(trial: Trial, point: dict[str, float]) -> dict[str, float]:
        slow = (
            2.0 if trial.label == "admm" else 1.0
        )  # half as fast as the baseline, on one worker too
        return point | {"train_seconds": slow * point["train_seconds"]}

    results = fill(client, plan, lambda _: [0.7, 0.45], own=own)
    drawn = [
        line for line in scaling.efficiency(results).axes[0].lines if len(line.get_xdata()) == 1
    ]
    admm = look.looks(results)["admm", 2].colour
    assert [line.get_ydata()[0] for line in drawn if line.get_color() == admm] == [
        pytest.approx(0.5),
        pytest.approx(0.375),
    ]
    (table,) = [t for t in given(results)["tables"] if t["title"] == "Scaling (weak, measured)"]
    assert table["rows"][0][1]["text"] == "0.38 (0.75)"
    for name in ("Hardware efficiency", "Scaling efficiency", "baseline on 1 worker"):
        assert name in table["note"]


def test_measured_times_stand_beside_modelled_ones_without_the_crowded(whole: Results) -> None:
    (axes,) = scaling.speedup(whole).axes
    marks = {
        line.get_xdata()[0]: line.get_ydata()[0]
        for line in lines_of(axes, 1)
        if line.get_marker() != "None"
    }
    assert marks == pytest.approx({1: 1.0, 2: 1.5})
    assert axes.get_ylabel() == "relative examples/s\n(measured)"
    drawn = catalogue.figures_of(whole)
    both = {"speedup", "efficiency", "pareto"}
    assert both | {f"{name}_modelled" for name in both} < set(drawn)
    assert "measured" in captions(whole)["speedup"][1]
    sole = replace(whole, trials=whole.trials.assign(oversubscribed=False))
    assert set(catalogue.figures_of(sole)) == set(catalogue.FIGURES)


def test_without_a_target_there_is_hardware_efficiency_alone(aimless: Results) -> None:
    (axes,) = scaling.efficiency(aimless).axes
    assert axes.get_title("left") == "hardware efficiency"
    assert "target" not in captions(aimless)["efficiency"][0]


def test_where_every_rank_had_a_core_times_are_those_measured(whole: Results) -> None:
    sole = replace(whole, trials=whole.trials.assign(oversubscribed=False))
    *_, seconds = scaling.efficiency(sole).axes
    drawn = {line.get_xdata()[0]: line.get_ydata()[0] for line in lines_of(seconds, 1)}
    assert drawn == pytest.approx({1: 2.5, 2: 5 / 1.5, 4: 10 / 1.2})
    assert seconds.get_ylabel() == "training time (s)\n(measured)"


def test_a_configuration_that_missed_the_target_is_marked(every: Results) -> None:
    figure = scaling.efficiency(every, groups.modelled(every))
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
    changed = replace(every, trials=trials)
    _, statistical, _ = scaling.efficiency(changed, groups.modelled(every)).axes
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
