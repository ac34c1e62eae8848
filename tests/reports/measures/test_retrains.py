"""How far retrains come out alike, on predictions made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from paceline.benchmarks.trials.store import open_store
from paceline.reports.figures.churn import churn_matrix
from paceline.reports.measures.groups import NothingToDraw
from paceline.reports.measures.results import RERUN, Results, load
from paceline.reports.measures.retrains import mean_churn, reproducibility
from tests.report_store import benchmark, fill


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return open_store(f"sqlite:///{tmp_path_factory.mktemp('retrains') / 'mlflow.db'}")


@pytest.fixture(scope="module")
def three(client: MlflowClient) -> Results:
    """Three seeds of two configurations; seed s of either predicts 0.49 + 0.02 s everywhere."""
    plan = benchmark("three", {"baseline": [1], "sync_sgd": [2]}, [0, 1, 2])
    return fill(client, plan, lambda trial: [0.45 + 0.01 * trial.seed])


def test_churn_is_the_mean_over_pairs_of_different_seeds() -> None:
    first = {0: np.array([0.1, 0.2]), 1: np.array([0.3, 0.2])}
    second = {0: np.array([0.1, 0.6]), 1: np.array([0.1, 0.2])}
    assert mean_churn(first, first) == pytest.approx(0.1)
    # Of first 0 with second 1 nothing, of first 1 with second 0 the mean of 0.2 and 0.4.
    assert mean_churn(first, second) == pytest.approx((0.0 + 0.3) / 2)


def test_the_matrix_shows_every_pair_of_configurations_once(three: Results) -> None:
    moved = {
        run_id: {"model": p["model"] + (0.1 if run_id in set(_runs(three, "sync_sgd")) else 0)}
        for run_id, p in three.predictions.items()
    }
    (axes,) = churn_matrix(replace(three, predictions=moved)).axes
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    # Seeds are 0.02, 0.02 and 0.04 apart; between the two, 0.1 more or less these.
    assert shown == {(0, 0): "27", (0, 1): "100", (1, 1): "27"}
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["baseline, 1 worker: 1", "synchronous SGD, 2 workers: 2"]


def test_one_seed_has_no_retrains(three: Results) -> None:
    single = replace(three, trials=three.trials[three.trials["seed"] == 0])
    with pytest.raises(NothingToDraw, match="several seeds"):
        churn_matrix(single)
    assert [kind for kind, _ in reproducibility(single)] == [
        "bitwise: a trial run again from its record",
        "bitwise: trials with equal weights",
    ]


def test_sameness_is_told_of_each_kind(client: MlflowClient, three: Results) -> None:
    first, second, *_ = _runs(three, "sync_sgd")
    client.set_tag(first, RERUN, "bitwise equal")
    client.set_tag(second, RERUN, "not equal")
    again = load(client, "three")
    hashes = again.trials["weights_sha256"].mask(again.trials["seed"] == 2, "0" * 64)
    told = dict(reproducibility(replace(again, trials=again.trials.assign(weights_sha256=hashes))))
    assert told == {
        "bitwise: a trial run again from its record": "1 trial of 2 gave the same weights bit by bit",
        "bitwise: trials with equal weights": "baseline on 1 worker (seed 2) = synchronous SGD on 2"
        " workers (seed 2)",
        "statistical: deviation of the final loss over seeds": "0.01000 to 0.01000 log loss (nats),"
        " the configurations' range",
        "churn between retrains": "0.0267 to 0.0267, likewise",
    }


def test_the_page_has_the_data_of_a_trial(client: MlflowClient, three: Results) -> None:
    (found,) = client.get_run(three.trials["run_id"].iloc[0]).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("click log", 9 * "0123")
    assert '"train_rows": 1000' in found.dataset.profile
    assert [tag.value for tag in found.tags] == ["training"]


def _runs(results: Results, algorithm: str) -> list[str]:
    own = results.trials[results.trials["algorithm"] == algorithm]
    return [str(run_id) for run_id in own["run_id"]]
