"""What a report tells of a sweep, from studies made by hand."""

import warnings
from pathlib import Path
from typing import Any

import matplotlib.style
import pytest
from mlflow.tracking import MlflowClient

from paceline.benchmarks.trials.store import open_store
from paceline.reports import pdf
from paceline.reports.figures import catalogue, look, tuning
from paceline.reports.measures.groups import NothingToDraw
from paceline.reports.measures.results import Results
from paceline.reports.measures.studies import by_study
from paceline.reports.text import tuning as text
from tests.drawn import crosses, overlaps, text_in
from tests.report_store import benchmark, fill

SETTINGS = {
    "trials": 5,
    "objectives": ["time_to_target_s", "bytes_to_target"],
    "sampler": "tpe",
    "tuning_seeds": [0],
    "seeds": [100, 101],
}


def tried(number: int, values: list[float] | None, excess: float = 0.0, **more: Any) -> Any:
    """A trial of a study that took a minute."""
    state = "COMPLETE" if values else "PRUNED"
    drawn = {"lr": 0.02 if number == 0 else 0.1 * number, "n_push": 1 + number}
    told = {"number": number, "state": state, "drawn": drawn, "values": values, "excess": excess}
    return told | {"seconds": 60.0, "reason": None, "run_ids": []} | more


def study(algorithm: str, workers: list[int], trials: list[Any], best: int | None) -> Any:
    return {
        "name": f"s: {algorithm} {workers}",
        "run_id": f"run of {algorithm} {workers}",
        "algorithm": algorithm,
        "workers": workers,
        "space": {
            "lr": {"low": 0.001, "high": 0.3, "log": True},
            "n_push": {"low": 1, "high": 10, "log": False},
            "staleness_aware": {"values": [False, True]},
        },
        "yaml": {"lr": 0.02, "n_push": 1},
        "trials": trials,
        "best": best,
        "front": [1, 3],
        "importance": {"lr": 0.75, "n_push": 0.25} if best else None,
    }


# The first is the YAML's; the second is better; the third was given up; the fourth sends less; the
# fifth, the quickest, missed the target.
TRIALS = [
    tried(0, [4.0, 2e6]),
    tried(1, [2.0, 1e6]),
    tried(2, None),
    tried(3, [3.0, 5e5]),
    tried(4, [1.0, 1e5], excess=0.1),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    folder: Path = tmp_path_factory.mktemp("tuning")
    return open_store(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture(scope="module")
def swept(client: MlflowClient) -> Results:
    studies = [
        study("sync_sgd", [2], TRIALS, 1),
        study("downpour", [1, 2], TRIALS, 3),
        study("admm", [2], [tried(0, None, state="FAIL")], None),
    ]
    sweep = {
        "settings": SETTINGS,
        "link": "ethernet-10g",
        "left_out": ["admm, 9 workers: too many"],
    }
    plan = benchmark("swept", {"sync_sgd": [2], "downpour": [2]}, [100, 101])
    losses = [0.9, 0.6, 0.45, 0.44]
    return fill(client, plan, lambda _: losses, sweep=sweep | {"studies": studies})


@pytest.fixture(autouse=True)
def style() -> Any:
    with matplotlib.style.context(["default", look.STYLE]):
        yield


@pytest.mark.parametrize("name", catalogue.OF_A_SWEEP)
def test_no_text_lies_upon_another_and_every_axis_is_named(name, swept):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = catalogue.OF_A_SWEEP[name](swept)
        assert overlaps(figure) == []
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert any("synthetic" in text for text in text_in(figure))


def test_the_history_shows_every_trial_and_the_best_so_far(swept):
    figure = tuning.history(swept)
    sync, downpour, admm = figure.axes
    assert sync.get_title(loc="left") == "synchronous SGD, 2 workers"
    assert downpour.get_title(loc="left") == "Downpour SGD, 1 or 2 workers"
    marks = {line.get_xdata()[0]: line for line in sync.lines if len(line.get_xdata()) == 1}
    assert marks[1].get_ydata()[0] == 4
    assert [line.get_xdata()[0] for line in crosses(sync)] == [3]
    assert len(crosses(admm)) == 1
    (steps,) = (line for line in sync.lines if len(line.get_xdata()) > 1)
    # What missed the target is never the best.
    assert list(zip(*steps.get_data(), strict=True)) == [(1, 4), (2, 2), (5.5, 2)]


def test_the_front_joins_what_nothing_beats(swept):
    sync = tuning.front(swept).axes[0]
    (line,) = (line for line in sync.lines if len(line.get_xdata()) > 1)
    assert list(zip(*line.get_data(), strict=True)) == [(2, 1e6), (3, 5e5)]


def test_the_tables_tell_what_became_of_each_budget_and_what_was_chosen(swept):
    told = {row[0]: row[1:] for row in text.studies(swept)["rows"]}
    assert told["synchronous SGD, 2 workers"] == ["3", "4", "1", "0", "5.0", "4", "2"]
    assert told["admm, 2 workers"] == ["3", "0", "0", "1", "1.0", "–", "–"]
    rows = text.spaces(swept)["rows"]
    assert rows[:3] == [
        ["synchronous SGD, 2 workers", "lr", "0.001 to 0.3, logarithmic", "0.02", "0.1"],
        ["", "n_push", "1 to 10", "1", "2"],
        ["", "staleness_aware", "False, True", "–", "–"],
    ]


def test_the_protocol_is_stated(swept):
    told = text.protocol(swept)
    assert "a budget of 5 configurations to minimise seconds to target and bytes sent to" in told
    assert "(sampler tpe), trained on seed 0. The best of each was retrained on seeds 100" in told
    assert "Left out: admm, 9 workers: too many." in told


def test_each_study_has_its_own_figures(swept):
    own = by_study(swept)
    assert list(own) == ["run of sync_sgd [2]", "run of downpour [1, 2]", "run of admm [2]"]
    (axes,) = tuning.history(own["run of downpour [1, 2]"]).axes
    assert axes.get_title(loc="left") == "Downpour SGD, 1 or 2 workers"
    with pytest.raises(NothingToDraw):
        tuning.history(own["run of admm [2]"])


def test_the_report_is_the_same_bytes_each_time(swept, tmp_path):
    first, *drawn = pdf.write(swept, tmp_path / "a.pdf")
    assert {path.stem for path in drawn} >= set(catalogue.OF_A_SWEEP)
    again, *_ = pdf.write(swept, tmp_path / "b.pdf")
    assert first.read_bytes() == again.read_bytes()
