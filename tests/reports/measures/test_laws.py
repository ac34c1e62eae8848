"""Laws of scaling, fitted to points made by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paceline.benchmarks.trials.store import open_store
from paceline.reports.measures.groups import modelled
from paceline.reports.measures.laws import Law, amdahl, fewest, fit, universal
from paceline.reports.text.tables import _law, scaling
from tests.report_store import benchmark, fill

WORKERS = [1, 2, 4, 8, 16]


def test_the_laws_at_points_computed_by_hand() -> None:
    assert amdahl(4, 0.1) == pytest.approx(1 / (0.1 + 0.9 / 4))
    assert amdahl(1, 0.7) == universal(1, 0.7, 0.3) == 1
    assert universal(4, 0.1, 0.01) == pytest.approx(4 / (1 + 0.3 + 0.12))
    assert universal(8, 0.1, 0.0) == amdahl(8, 0.1)


def test_points_of_a_law_give_back_its_parameters() -> None:
    found = fit(amdahl, WORKERS, [amdahl(n, 0.07) for n in WORKERS])
    assert found is not None
    assert found.parameters == pytest.approx((0.07,), abs=1e-6)
    found = fit(universal, WORKERS, [universal(n, 0.05, 0.003) for n in WORKERS])
    assert found is not None
    assert found.parameters == pytest.approx((0.05, 0.003), abs=1e-6)
    assert found.deviation < 1e-5


def test_noise_shows_as_deviation_and_moves_the_parameters_little() -> None:
    noise = 1 + 0.05 * np.array([0, 1, -1, 1, -1])
    found = fit(amdahl, WORKERS, list(noise * [amdahl(n, 0.2) for n in WORKERS]))
    assert found is not None
    assert found.parameters[0] == pytest.approx(0.2, abs=0.02)
    assert 0.03 < found.deviation < 0.08


def test_errors_count_in_proportion_to_the_speedup() -> None:
    """The relative distance is the least of many tried, and not the absolute, of which most is at 16."""
    workers, speedups = [2, 4, 16], [1.2, 2.2, 9.0]
    found = fit(amdahl, workers, speedups)
    assert found is not None
    tried = np.linspace(0, 1, 20_001)
    lines = np.array([amdahl(n, tried) for n in workers])
    off = lines / np.array(speedups)[:, None] - 1
    best = tried[(off**2).sum(axis=0).argmin()]
    absolute = tried[((off * np.array(speedups)[:, None]) ** 2).sum(axis=0).argmin()]
    assert found.parameters[0] == pytest.approx(best, abs=1e-3)
    assert abs(absolute - best) > 0.05


def test_coherency_is_seen_where_more_workers_are_slower() -> None:
    speedups = [1.0, 1.6, 1.9, 1.4]
    by_amdahl, by_universal = (fit(law, WORKERS[:4], speedups) for law in (amdahl, universal))
    assert by_amdahl is not None
    assert by_universal is not None
    assert by_universal.deviation < by_amdahl.deviation / 2
    contention, coherency = by_universal.parameters
    assert 3 < ((1 - contention) / coherency) ** 0.5 < 6


def test_more_than_as_many_times_the_speed_is_no_negative_share() -> None:
    found = fit(amdahl, [1, 2, 4], [1.0, 2.2, 4.6])
    assert found is not None
    assert found.parameters[0] == pytest.approx(0, abs=1e-6)
    assert found.deviation == pytest.approx(1 - 4 / 4.6, abs=1e-3)


@pytest.mark.parametrize(("law", "too_few"), [(amdahl, [1, 1, 2, 2]), (universal, [1, 2, 4, 4])])
def test_there_are_more_numbers_of_workers_beyond_one_than_parameters(
    law: Law, too_few: list[float]
) -> None:
    assert fit(law, too_few, [law(n, *[0.1] * (fewest(law) - 2)) for n in too_few]) is None
    enough = [*too_few, 8]
    assert fit(law, enough, [law(n, *[0.1] * (fewest(law) - 2)) for n in enough]) is not None


def test_the_report_has_efficiencies_and_laws_of_each_algorithm(tmp_path: Path) -> None:
    client = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    workers = {"baseline": [1], "sync_sgd": [2, 4], "admm": [1, 2]}
    results = fill(client, benchmark("laws", workers, [0]), lambda _: [0.4])
    found = scaling(results, modelled(results))
    assert found["title"] == "Scaling (weak, modelled, ethernet-10g)"
    assert found["header"][1:] == [
        "efficiency on 2",
        "efficiency on 4",
        "Universal Scalability Law",
    ]
    sync, admm = found["rows"]
    # The store's trials take 1.5 and 1.2 times the examples of one worker, less what sending costs.
    few = "fewer than 4 numbers of workers"
    assert sync == ["synchronous SGD", "0.75 (0.75)", "0.30 (0.30)", few]
    assert admm == ["consensus ADMM", "0.75 (0.75)", "–", few]
    config = results.benchmark["benchmark"]
    strong = config | {"scale": config["scale"] | {"scaling": "strong"}}
    strongly = replace(results, benchmark=results.benchmark | {"benchmark": strong})
    found = scaling(strongly, modelled(strongly))
    assert found["header"][3:] == ["Amdahl", "Universal Scalability Law"]
    sync, admm = found["rows"]
    assert sync[3].endswith("%)")
    assert admm[3] == "fewer than 3 numbers of workers"


def test_the_law_says_on_how_many_workers_it_is_fastest() -> None:
    speedups = [universal(n, 0.1, 0.025) for n in WORKERS]
    assert _law(universal, [*WORKERS], speedups) == "0.1, 0.025; most on 6.0 (0.0%)"


def test_without_a_single_worker_there_is_no_efficiency(tmp_path: Path) -> None:
    client = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    results = fill(client, benchmark("laws", {"sync_sgd": [2, 4]}, [0]), lambda _: [0.4])
    (sync,) = scaling(results, modelled(results))["rows"]
    assert sync == ["synchronous SGD", "1.00 (–)", "0.40 (–)", "no single worker"]
