"""The report, drawn from stores that the real writer filled with curves made by hand."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typst
from matplotlib.figure import Figure
from matplotlib.text import Text
from mlflow.tracking import MlflowClient

from paceline.benchmarks.trials.store import open_store
from paceline.reports import pdf
from paceline.reports.figures import catalogue
from paceline.reports.measures.claims import read_claims
from paceline.reports.measures.results import COLUMNS, CURVE_OF, NoResults, Results, load
from paceline.reports.measures.scoring import CURVE
from tests import ROOT
from tests.report_store import LONG, MARKUP, REAL, benchmark, fill, fill_every


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def client(folder: Path) -> MlflowClient:
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
    failures = {4: f"rank 1: {MARKUP} in {LONG}"}
    return fill(client, plan, lambda _: [0.7, 0.6], REAL, failures, skipped=1)


@pytest.fixture(scope="session")
def dead(client: MlflowClient) -> Results:
    """The only trial failed before its first evaluation."""
    plan = benchmark("dead", {"sync_sgd": [2]}, [0])
    return fill(client, plan, lambda _: [], failures={2: "rank 0 died"})


@pytest.fixture(scope="session")
def every(client: MlflowClient) -> Results:
    return fill_every(client, "every")


def given(results: Results) -> dict[str, Any]:
    """What the template is given, but for the figures."""
    content: dict[str, Any] = json.loads(pdf.inputs(results, {}, {})["report"])
    return content


def shown(results: Results) -> str:
    """All tables of the laid out document as JSON, without the places where a word may break."""
    inputs = pdf.inputs(results, {}, dict.fromkeys(catalogue.FIGURES, "left out"))
    tables = typst.query(pdf.TEMPLATE, "table", sys_inputs=inputs, ignore_system_fonts=True)
    return str(tables).replace("\u200b", "")


def text_in(figure: Figure) -> list[str]:
    found: list[Any] = figure.findobj(Text)
    return [text.get_text() for text in found]


# --- what MLflow gives back -----------------------------------------------------------------------


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


def test_a_benchmark_never_run_has_no_results(client: MlflowClient) -> None:
    with pytest.raises(NoResults, match="nowhere"):
        load(client, "nowhere")


# --- the document ---------------------------------------------------------------------------------


def test_the_same_results_give_the_same_bytes_in_two_processes(
    whole: Results, folder: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from mlflow.tracking import MlflowClient;"
        "from reports import pdf, results;"
        "loaded = results.load(MlflowClient(sys.argv[1]), 'whole');"
        "pdf.write(loaded, Path(sys.argv[2]))"
    )
    here, there = tmp_path / "here" / "a.pdf", tmp_path / "there" / "a.pdf"
    subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{folder / 'mlflow.db'}", str(there)],
        env=os.environ | {"PYTHONHASHSEED": "1", "TZ": "UTC-9"},
        cwd=ROOT,
        check=True,
    )
    for written in pdf.write(whole, here):
        other = there.parent / written.relative_to(here.parent)
        assert other.read_bytes() == written.read_bytes(), other


def test_the_document_is_a_pdf_without_dates_and_without_warnings(whole: Results) -> None:
    inputs = pdf.inputs(whole, *pdf.draw(whole))
    content, warnings = typst.compile_with_warnings(
        pdf.TEMPLATE, format="pdf", sys_inputs=inputs, ignore_system_fonts=True
    )
    assert content.startswith(b"%PDF")
    assert not [name for name in (b"CreationDate", b"ModDate", b"CreateDate") if name in content]
    assert warnings == []


def test_write_returns_the_document_and_its_figures_and_removes_those_no_longer_drawn(
    every: Results, dead: Results, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "report.pdf"
    written = pdf.write(every, path)
    assert written == [path, *(path.with_suffix("") / f"{name}.svg" for name in catalogue.FIGURES)]
    assert all(file.stat().st_size > 1000 for file in written)
    assert pdf.write(dead, path) == [path]
    assert list(path.with_suffix("").iterdir()) == []


@pytest.mark.parametrize("name", catalogue.FIGURES)
def test_synthetic_data_is_called_so_in_title_captions_and_figures(
    name: str, every: Results
) -> None:
    content = given(every)
    assert "synthetic" in content["title"]
    assert "synthetic" in dict(content["facts"])["Data"]
    captions = {figure["title"]: figure["caption"] for figure in content["figures"]}
    assert all("Synthetic data" in caption for caption in captions.values())
    assert any("synthetic" in text for text in text_in(catalogue.FIGURES[name](every)))


def test_real_data_is_never_called_synthetic(partial: Results) -> None:
    assert "synthetic" not in json.dumps(given(partial)).lower()


def test_what_was_run_is_stated(whole: Results) -> None:
    facts = dict(given(whole)["facts"])
    assert facts["Workload"] == "linear rule: Tower (lr = 0.1)"
    assert "click rate 25.00 %" in facts["Data"]
    assert "0.5623" in facts["Data"]
    assert "0.4000" in facts["Data"]
    assert facts["Algorithms"] == "baseline on 1 worker\nsynchronous SGD on 2 and 4 workers"
    assert facts["Partition"] == "iid"
    assert "Fault" not in facts
    assert facts["Scale"].startswith("batch of 10 examples per worker (weak scaling)")
    assert facts["Seeds"] == "0 and 1"
    assert facts["Code"] == "commit 0123456789ab, with uncommitted changes"


def test_a_partition_is_told_with_the_parameter_that_matters_and_a_fault_where_there_is_one(
    whole: Results,
) -> None:
    config = dict(whole.benchmark["benchmark"])
    labels = {"kind": "labels", "shards": 2, "alpha": 0.5}
    dirichlet = labels | {"kind": "dirichlet", "alpha": 0.1}
    config |= {
        "partition": dirichlet,
        "fault": {"kind": "slow", "rank": 1, "step": 5, "factor": 4.0},
    }
    own = config["algorithms"]["sync_sgd"] | {"partition": labels}
    config["algorithms"] = config["algorithms"] | {"sync_sgd": own}
    facts = dict(given(replace(whole, benchmark=whole.benchmark | {"benchmark": config}))["facts"])
    assert facts["Partition"] == "dirichlet, alpha 0.1"
    assert facts["Fault"] == (
        "on purpose, rank 1 takes 4 times as long for each step from step 5 on"
    )
    assert "synchronous SGD (partition = labels, 2 shards per replica) on" in facts["Algorithms"]


def test_a_budget_that_differs_is_told(whole: Results) -> None:
    config = dict(whole.benchmark["benchmark"])
    own = {"budget": {"examples": 2000, "epochs": 3.5, "evaluations": 7}}
    sync_sgd = config["algorithms"]["sync_sgd"] | own
    config["algorithms"] = config["algorithms"] | {"sync_sgd": sync_sgd}
    shown = given(replace(whole, benchmark=whole.benchmark | {"benchmark": config}))
    facts = dict(shown["facts"])
    assert shown["notes"][-1] == (
        "With a budget of its own: synchronous SGD. Final losses are not after equally many examples."
    )
    assert "budget" not in " ".join(given(whole)["notes"])
    budget = "2,000 examples or 3.5 epochs, whichever comes first; 7 evaluations"
    assert f"synchronous SGD (budget = {budget}) on" in facts["Algorithms"]


def test_runs_from_before_there_were_partitions_and_faults_have_none(whole: Results) -> None:
    config = dict(whole.benchmark["benchmark"])
    del config["partition"], config["fault"]
    facts = dict(given(replace(whole, benchmark=whole.benchmark | {"benchmark": config}))["facts"])
    assert not {"Partition", "Fault"} & set(facts)


def test_markup_in_names_and_reasons_is_shown_as_it_is(partial: Results) -> None:
    document = shown(partial)
    for text in (f"{MARKUP}.tsv", f"rank 1: {MARKUP} in {LONG}", "line 3: <x>"):
        assert json.dumps(text)[1:-1] in document


def test_markup_in_the_name_of_a_benchmark_reaches_title_and_figures(every: Results) -> None:
    named = replace(every, benchmark=every.benchmark | {"name": MARKUP})
    drawn, reasons = pdf.draw(named)
    assert (set(drawn), reasons) == (set(catalogue.FIGURES), {})
    inputs = pdf.inputs(named, drawn, reasons)
    headings = typst.query(pdf.TEMPLATE, "heading", sys_inputs=inputs, ignore_system_fonts=True)
    title = json.loads(headings)[0]["body"]["text"]
    assert title == f"Benchmark {MARKUP} (synthetic data)"


def test_the_summary_gives_the_mean_and_the_spread_over_seeds(whole: Results) -> None:
    baseline, two, four = given(whole)["summary"]["rows"]
    assert baseline == [
        "baseline", "1", "2 of 2", "2 of 2", "250\n200–300", "2.5\n2.0–3.0", "2.5\n2.0–3.0",
        "0 B", "0.4400", "0.7000",
    ]  # fmt: skip
    assert two[7] == "10.0 kB\n8.00–12.0 kB"
    assert four[1] == "4†"


def test_the_answer_names_the_least_of_each_cost_and_no_crowded_seconds(whole: Results) -> None:
    answer = " ".join(given(whole)["answer"])
    assert "6 of 6 finished trials reached the target of 0.5." in answer
    assert "least training time with a core for every rank 2.5 s (baseline on 1 worker)" in answer
    assert "fewest bytes sent per worker 10.0 kB (synchronous SGD on 2 workers)" in answer
    assert "single seed" not in answer


def test_configurations_that_tie_are_named_together(whole: Results) -> None:
    tied = replace(whole, trials=whole.trials.assign(time_to_target_s=2.04))
    assert (
        "2.0 s (baseline on 1 worker and synchronous SGD on 2 workers)" in given(tied)["answer"][1]
    )


def test_of_many_ties_the_first_are_named(every: Results) -> None:
    tied = replace(every, trials=every.trials.assign(steps_to_target=300))
    assert (
        "fewest steps 300 (baseline on 1 worker, synchronous SGD on 2 workers and 14 others)"
        in (given(tied)["answer"][1])
    )


def test_the_table_of_many_configurations_ends_on_the_first_page(every: Results) -> None:
    inputs = pdf.inputs(every, {}, dict.fromkeys(catalogue.FIGURES, "left out"))
    found = typst.query(
        pdf.TEMPLATE, "<summary-end>", field="value", sys_inputs=inputs, ignore_system_fonts=True
    )
    assert json.loads(found) == [1]


def test_a_single_seed_is_called_so_and_unfinished_trials_are_counted(partial: Results) -> None:
    answer = " ".join(given(partial)["answer"])
    assert "No trial reached the target of 0.5 within the budget" in answer
    assert "lowest final loss measured is 0.6000, synchronous SGD on 2 workers, seed 0" in answer
    assert "Each configuration finished with a single seed only" in answer
    assert "2 of 3 planned trials did not finish" in answer


def test_the_table_of_trials_gives_each_failure_its_reason(partial: Results) -> None:
    missing, finished, failed = given(partial)["trials"]["rows"]
    assert missing["failure"] == "never started"
    assert finished["failure"] is None
    assert finished["cells"][-2:] == ["20202020", partial.trials["run_id"][1][:8]]
    assert failed["cells"][3] == "failed"
    assert failed["failure"] == f"rank 1: {MARKUP} in {LONG}"


def test_a_trial_still_running_is_not_called_failed(dead: Results) -> None:
    running = replace(dead, trials=dead.trials.assign(status="RUNNING", failure=None))
    (row,) = given(running)["trials"]["rows"]
    assert (row["cells"][3], row["failure"]) == ("running", "not ended when this report was drawn")


def test_a_very_long_reason_is_cut_and_says_so(dead: Results) -> None:
    wordy = replace(dead, trials=dead.trials.assign(failure="word\n" * 1000))
    reason = given(wordy)["trials"]["rows"][0]["failure"]
    assert len(reason) < 700
    assert reason.endswith("… (the whole of it is with the run in MLflow)")


def test_figures_that_cannot_be_drawn_are_left_out_with_the_reason(
    partial: Results, dead: Results
) -> None:
    drawn, reasons = pdf.draw(partial)
    assert {"loss_against_steps", "loss_against_bytes", "bytes_sent"} < set(drawn)
    sole = "every trial that finished ran on the same number of workers"
    assert reasons == {
        "speedup": sole,
        "efficiency": sole,
        "pareto": "no configuration reached the target in all its trials that finished",
        "churn_matrix": "no configuration finished with several seeds and kept predictions",
        "staleness": "no trial that finished recorded the staleness of its pushes",
        "residuals": "no trial that finished measured the residuals of consensus ADMM",
        "divergence": "no trial that finished measured the distance of replicas from their average",
    }
    drawn, reasons = pdf.draw(dead)
    assert drawn == {}
    assert set(reasons) == set(catalogue.FIGURES)
    content = json.loads(pdf.inputs(dead, drawn, reasons)["report"])
    assert [figure["lacking"] for figure in content["figures"]] == list(reasons.values())
    laid_out = typst.query(
        pdf.TEMPLATE,
        "heading",
        sys_inputs=pdf.inputs(dead, drawn, reasons),
        ignore_system_fonts=True,
    )
    assert "Figures not drawn" in laid_out
    assert content["answer"][0].startswith("No trial finished")


# Tables


def rows_of(results: Results, title: str) -> dict[str, list[str]]:
    """The cells of a table by their first."""
    (table,) = [each for each in given(results)["tables"] if each["title"].startswith(title)]
    return {row[0]["text"]: [cell["text"] for cell in row[1:]] for row in table["rows"]}


def test_ratios_have_an_interval_over_seeds_and_count_where_it_leaves_out_one(
    whole: Results,
) -> None:
    rows = rows_of(whole, "Relative to the reference")
    # The target is reached at step 200 with seed 0 and at step 300 with seed 1, by everybody.
    assert rows["synchronous SGD on 2 workers"][:2] == ["1 [1, 1]", "2 [2, 2]"]
    (table,) = [t for t in given(whole)["tables"] if t["title"] == "Relative to the reference"]
    assert [cell["strong"] for cell in table["rows"][0]] == [False, False, True, True, True]


def test_one_seed_has_no_interval(partial: Results) -> None:
    assert all(t["title"] != "Relative to the reference" for t in given(partial)["tables"])


def test_modelled_seconds_are_what_is_computed_and_then_sent(whole: Results) -> None:
    trial = whole.trials[whole.trials["workers"] == 2].iloc[0]
    # 2 * 2000 examples at 1500/s are computed, 200 messages of 40 bytes cross 10 Gbit/s at 30 us.
    assert trial["modelled_time_to_target_s"] == pytest.approx(
        4 / 1.5 + 200 * (30e-6 + 40 / 1.25e9)
    )


def test_retrains_show_their_churn(whole: Results) -> None:
    rows = rows_of(whole, "Would you get the same predictions")
    # Predictions of 0.49 and of 0.51: another label everywhere.
    assert rows["baseline on 1 worker"][0] == "2"
    assert rows["baseline on 1 worker"][2:] == ["0.0200", "1.0000", "–", "–"]


def test_claims_are_told_by_the_benchmark_that_tests_them(
    client: MlflowClient, whole: Results
) -> None:
    assert all(table["title"] != "Claims" for table in given(whole)["tables"])
    plan = benchmark("claims", {"sync_sgd": [2, 4]}, [0, 1])
    tested = fill(client, plan, lambda _: [0.7, 0.45])
    (table,) = [table for table in given(tested)["tables"] if table["title"] == "Claims"]
    assert {row[0]["text"] for row in table["rows"]} == {"not judged"}
    assert len(table["rows"]) == sum(claim.benchmark == "claims" for claim in read_claims()) > 1
