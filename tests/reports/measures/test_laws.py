"""Laws of scaling, fitted to points made by hand."""

from pathlib import Path

import numpy as np
import pytest

from paceline.benchmarks.trials.store import open_store
from paceline.reports.measures.groups import modelled
from paceline.reports.measures.laws import amdahl, fit, universal
from paceline.reports.text.tables import scaling
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
    assert found.determined


def test_noise_shows_as_deviation_and_moves_the_parameters_little() -> None:
    noise = 1 + 0.05 * np.array([0, 1, -1, 1, -1])
    found = fit(amdahl, WORKERS, list(noise * [amdahl(n, 0.2) for n in WORKERS]))
    assert found is not None
    assert found.parameters[0] == pytest.approx(0.2, abs=0.02)
    assert 0.03 < found.deviation < 0.08


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


def test_with_as_many_parameters_as_points_beyond_one_a_law_cannot_be_wrong() -> None:
    by_amdahl, by_universal = (fit(law, [1, 2, 4], [1, 1.5, 1.9]) for law in (amdahl, universal))
    assert by_amdahl is not None
    assert by_amdahl.determined
    assert by_universal is not None
    assert not by_universal.determined


def test_two_numbers_of_workers_are_too_few_however_many_points() -> None:
    assert fit(amdahl, [1, 1, 2, 2], [1.0, 1.0, 1.8, 1.7]) is None


def test_the_report_has_efficiencies_and_laws_of_each_algorithm(tmp_path: Path) -> None:
    client = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    workers = {"baseline": [1], "sync_sgd": [2, 4], "admm": [1, 2]}
    results = fill(client, benchmark("laws", workers, [0]), lambda _: [0.4])
    found = scaling(results, modelled(results))
    assert found["title"] == "Scaling (weak, modelled, ethernet-10g)"
    assert found["header"][1:3] == ["efficiency on 2", "efficiency on 4"]
    sync, admm = found["rows"]
    # The store's trials take 1.5 and 1.2 times the examples of one worker, less what sending costs.
    assert sync[:3] == ["synchronous SGD", "0.75 (0.75)", "0.30 (0.30)"]
    assert sync[3].endswith("%)")
    assert "most on 2." in sync[4]
    assert sync[4].endswith(", =)")
    assert admm == [
        "consensus ADMM",
        "0.75 (0.75)",
        "–",
        "fewer than 3 points",
        "fewer than 3 points",
    ]


def test_without_a_single_worker_there_is_no_efficiency(tmp_path: Path) -> None:
    client = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    results = fill(client, benchmark("laws", {"sync_sgd": [2, 4]}, [0]), lambda _: [0.4])
    (sync,) = scaling(results, modelled(results))["rows"]
    assert sync == [
        "synchronous SGD",
        "1.00 (–)",
        "0.40 (–)",
        "no single worker",
        "no single worker",
    ]
