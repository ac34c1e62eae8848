"""Time against bytes."""

from dataclasses import replace

import pytest
from mlflow.tracking import MlflowClient

from paceline.reports.figures import look, pareto
from paceline.reports.measures import groups
from paceline.reports.measures.groups import NothingToDraw
from paceline.reports.measures.results import Results
from tests.drawn import lines_of, overlaps, text_in
from tests.report_store import EVERY, benchmark, fill, modelled


def placed(results: Results, points: dict[tuple[str, int], tuple[float, float]]) -> Results:
    """The results with other seconds and bytes to the target."""
    trials = results.trials.copy()
    for (algorithm, workers), (seconds, sent) in points.items():
        own = (trials["algorithm"] == algorithm) & (trials["workers"] == workers)
        trials.loc[own, "modelled_time_to_target_s"] = seconds
        trials.loc[own, "bytes_to_target"] = sent
    return replace(results, trials=trials)


def test_each_configuration_that_reached_the_target_is_a_named_point(every: Results) -> None:
    figure = pareto.pareto(every, groups.modelled(every))
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.texts if text.get_text()]
    assert len(names) == 14
    assert {"baseline, 1", "consensus ADMM, 4", "codistillation, 2"} < set(names)
    note = " ".join(" ".join(text_in(figure)).split())
    assert "Target not always reached: codistillation on 4 workers." in note
    assert "Not ranked: independent replicas on 2 workers and independent replicas on 4" in note
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
    (axes,) = pareto.pareto(placed(every, fast), groups.modelled(every)).axes
    (front,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    from_top, *corners, to_right = zip(front.get_xdata(), front.get_ydata(), strict=True)
    assert corners == [(1.0, 5e6), (2.0, 1e3), (pytest.approx(3.5), 0.0)]
    assert from_top == (1.0, axes.get_ylim()[1])
    assert to_right == (axes.get_xlim()[1], 0.0)


def test_names_at_one_and_the_same_point_are_still_readable(every: Results) -> None:
    same = {(label, n): (5.0, 1e6) for label in EVERY for n in (1, 2, 4)}
    assert overlaps(pareto.pareto(placed(every, same), groups.modelled(every))) == []


def test_without_the_target_there_is_nothing_to_compare(partial: Results) -> None:
    with pytest.raises(NothingToDraw, match="no configuration reached the target"):
        pareto.pareto(partial)


def test_measured_times_are_never_drawn_of_ranks_that_shared_cores(every: Results) -> None:
    (axes,) = pareto.pareto(every).axes
    names = {text.get_text() for text in axes.texts} - {""}
    assert len(names) == 8
    assert not [name for name in names if name.endswith(", 4")]


def test_a_seed_that_failed_takes_its_configuration_off_the_front(client: MlflowClient) -> None:
    plan = benchmark("unlucky", {"baseline": [1], "sync_sgd": [2]}, [0, 1])
    failures: dict[int | str, str] = {"sync_sgd, 2 workers, seed 1": "the loss is not finite"}
    results = fill(client, plan, lambda _: [0.7, 0.45], failures=failures)
    figure = pareto.pareto(results)
    assert {text.get_text() for text in figure.axes[0].texts} - {""} == {"baseline, 1"}
    assert any("Target not always reached: synchronous SGD" in text for text in text_in(figure))


def test_without_a_target_there_is_no_cost_to_reach_it(aimless: Results) -> None:
    with pytest.raises(NothingToDraw, match="has no target"):
        pareto.pareto(aimless)
