"""What MLflow gives back of a benchmark."""

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from paceline.benchmarks.spec.benchmark import Trial
from paceline.reports.measures.groups import always_reached, reference, without_target
from paceline.reports.measures.results import COLUMNS, CURVE_OF, NoResults, Results, load
from paceline.reports.measures.scoring import CURVE
from tests.report_store import MARKUP, benchmark, fill


def test_results_have_one_row_a_planned_trial_and_stable_columns(whole: Results) -> None:
    assert list(whole.trials.columns[: len(COLUMNS)]) == COLUMNS
    assert list(zip(whole.trials["workers"], whole.trials["seed"], strict=True)) == [
        (1, 0), (2, 0), (4, 0), (1, 1), (2, 1), (4, 1),
    ]  # fmt: skip
    two = whole.trials.iloc[1]
    assert (two["status"], two["replicas"], two["target_reached"]) == ("FINISHED", 1, True)
    assert (two["steps_to_target"], two["examples_to_target"]) == (200, 4000)
    assert two["examples_per_s"] == pytest.approx(1500)
    assert two["time_to_target_s"] == pytest.approx(4000 / 1500)
    assert (two["bytes_to_target"], two["bytes_sent_per_worker"]) == (8000, 16000)
    assert two["weights_sha256"] == "20" * 32
    assert two["param.task.lr"] == "0.1"
    assert whole.trials["oversubscribed"].tolist() == [False, False, True] * 2


def test_a_curve_comes_back_as_it_was_written(whole: Results) -> None:
    run_id = whole.trials["run_id"].iloc[1]
    curve = whole.curves[whole.curves["run_id"] == run_id].dropna(subset=["validation_loss"])
    assert curve["step"].tolist() == [100, 200, 300, 400]
    assert curve["validation_loss"].tolist() == [0.7, 0.5, 0.45, 0.44]
    assert curve["examples"].tolist() == [2000, 4000, 6000, 8000]


def test_a_curve_has_what_its_algorithm_reports_and_a_record_what_its_ranks_returned(
    every: Results,
) -> None:
    assert list(every.curves.columns[: 4 + len(CURVE)]) == [*CURVE_OF, *CURVE]
    own = every.curves.set_index("algorithm")
    assert own.loc["admm", "dual_residual"].eq(0.02).all()
    assert own.loc["sync_sgd", "dual_residual"].isna().all()
    assert not {"target_reached", "final_loss"} & set(every.curves)
    run_id = every.trials.loc[every.trials["algorithm"] == "downpour", "run_id"].iloc[0]
    assert every.records[run_id]["result"]["ranks"][0]["algorithm"]["staleness"]["1"] == 20


def test_failed_and_missing_trials_are_rows_too(partial: Results) -> None:
    missing, finished, failed = (row for _, row in partial.trials.iterrows())
    assert missing["status"] == "MISSING"
    assert pd.isna(missing["run_id"])
    assert finished["status"] == "FINISHED"
    assert failed["status"] == "FAILED"
    assert failed["failure"].startswith(f"rank 1: {MARKUP}")
    assert pd.isna(failed["weights_sha256"])


def test_a_trial_that_failed_has_missed_the_target_whatever_it_had_reached(
    client: MlflowClient,
) -> None:
    plan = benchmark("late", {"sync_sgd": [2]}, [0, 1, 2])
    failures: dict[int | str, str] = {"sync_sgd, 2 workers, seed 1": "the loss is not finite"}
    results = fill(client, plan, lambda _: [0.7, 0.45], failures=failures)
    assert results.trials["target_reached"].tolist() == [True, False, True]
    assert always_reached(results) == []
    assert without_target(results) == {"sync_sgd": [2]}


def test_one_seed_of_two_that_missed_is_not_always(client: MlflowClient) -> None:
    plan = benchmark("half", {"baseline": [1], "sync_sgd": [2]}, [0, 1])

    def losses(trial: Trial) -> list[float]:
        return [0.7, 0.6 if (trial.label, trial.seed) == ("sync_sgd", 1) else 0.45]

    results = fill(client, plan, losses)
    assert [(a, n) for a, n, _ in always_reached(results)] == [("baseline", 1)]


def test_the_reference_is_the_baseline_wherever_it_is_listed(client: MlflowClient) -> None:
    plan = benchmark("second", {"admm": [1, 2], "baseline": [1]}, [0])
    results = fill(client, plan, lambda _: [0.7, 0.45])
    assert reference(results.trials)["algorithm"].tolist() == ["baseline"]
    others = results.trials[results.trials["algorithm"] != "baseline"]
    assert reference(others)[["algorithm", "workers"]].values.tolist() == [["admm", 1]]


def test_of_two_finished_runs_of_a_trial_the_newest_counts(client: MlflowClient) -> None:
    plan = benchmark("twice_run", {"sync_sgd": [2]}, [0])
    fill(client, plan, lambda _: [0.7, 0.45])
    again = fill(client, plan, lambda _: [0.7, 0.41])
    assert again.trials["final_loss"].tolist() == [0.41]


def test_a_failure_after_a_finished_run_changes_nothing(client: MlflowClient) -> None:
    plan = benchmark("then_failed", {"sync_sgd": [2]}, [0])
    fill(client, plan, lambda _: [0.7, 0.45])
    again = fill(client, plan, lambda _: [0.7], failures={2: "rank 0 died"})
    assert again.trials["status"].tolist() == ["FINISHED"]


def test_the_run_that_was_worked_on_last_is_the_one_shown(client: MlflowClient) -> None:
    first, second = (benchmark("two_plans", {"sync_sgd": [2]}, [seed]) for seed in (0, 1))
    fill(client, first, lambda _: [0.7, 0.45])
    assert fill(client, second, lambda _: [0.7, 0.45]).trials["seed"].tolist() == [1]
    assert fill(client, first, lambda _: [0.7, 0.45]).trials["seed"].tolist() == [0]


def test_without_a_target_nobody_reached_or_missed_one(aimless: Results) -> None:
    assert aimless.trials["target_reached"].isna().all()
    assert aimless.trials["steps_to_target"].isna().all()
    assert without_target(aimless) == {}


def test_a_benchmark_never_run_has_no_results(client: MlflowClient) -> None:
    with pytest.raises(NoResults, match="nowhere"):
        load(client, "nowhere")


def test_modelled_seconds_are_what_is_computed_and_then_sent(whole: Results) -> None:
    trial = whole.trials[whole.trials["workers"] == 2].iloc[0]
    # 2 * 2000 examples at 1500/s are computed, 200 messages of 40 bytes cross 10 Gbit/s at 30 us.
    assert trial["modelled_time_to_target_s"] == pytest.approx(
        4 / 1.5 + 200 * (30e-6 + 40 / 1.25e9)
    )
