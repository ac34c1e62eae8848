"""The report, drawn from stores that the real writer filled with curves made by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typst
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from mlflow.tracking import MlflowClient

from benchmarks.config import Benchmark, Budget, Plugin, Scale, Target, Trial, Workload
from benchmarks.store import open_store
from benchmarks.tracking import BenchmarkRun
from reports import figures, pdf
from reports.results import COLUMNS, NoResults, Results, load
from reports.scoring import CURVE, score

ROOT = Path(__file__).parent.parent
MARKUP = "#let $x$ *b* _i_ @ref [c] <d> \\ // `e`"
LONG = "/".join(["directory"] * 12)
SYNTHETIC = {
    "name": "click log",
    "synthetic": True,
    "train_rows": 1000,
    "validation_rows": 100,
    "click_rate": 0.25,
    "constant_log_loss": 0.5623,
    "bayes_log_loss": 0.4,
    "skipped_rows": 0,
}
REAL = {
    "name": f"{MARKUP}.tsv",
    "synthetic": False,
    "train_rows": 1000,
    "validation_rows": 100,
    "skipped_rows": 1,
    "first_skipped": "line 3: <x>",
}
ENVIRONMENT = {
    "versions": {"python": "3.11"},
    "hardware": {"cpu": "a CPU", "cores": 2, "memory_gib": 8, "gpus": [], "system": "Linux"},
    "revision": {"commit": "0123456789abcdef", "dirty": True},
}
Losses = Callable[[Trial], list[float]]


def benchmark(name: str, workers: dict[str, list[int]], seeds: list[int]) -> Benchmark:
    workload = Workload(
        name="linear rule",
        data=Plugin("tests.workload:LinearRule", {}),
        task=Plugin("tests.workload:Tower", {"lr": 0.1}),
        target=Target(0.5),
        budget=Budget(),
    )
    algorithms = {label: {"algorithm": label, "workers": n} for label, n in workers.items()}
    return Benchmark(name, workload, algorithms, Scale([1], batch_size=10), seeds)


def points(trial: Trial, losses: list[float]) -> list[dict[str, float]]:
    """Two workers take 1.5 times the examples of one in a second, four take 1.2 times as many."""
    curve = []
    for i, loss in enumerate(losses, start=1):
        examples = 1000 * i * trial.workers
        seconds = examples / 1000 / {1: 1.0, 2: 1.5, 4: 1.2}[trial.workers]
        sent = 4000.0 * i * (trial.workers - 1)
        values = [100 * i, examples, seconds, seconds, sent, 100 * i, loss, loss, 0.7]
        curve.append(dict(zip(CURVE, values, strict=True)))
    return curve


def fill(
    client: MlflowClient,
    plan: Benchmark,
    losses: Losses,
    data: dict[str, Any] = SYNTHETIC,
    failures: dict[int, str] | None = None,
    skipped: int | None = None,
) -> Results:
    """Stores a benchmark.

    Args:
        client: of the store.
        plan: what was to run.
        losses: validation losses of each trial at steps 100, 200 and so on; the target is 0.5.
        data: its description.
        failures: the reason why the trials on a number of workers fail.
        skipped: trials on so many workers are never started.
    """
    trials = {trial.identity(): trial for trial in plan.trials()}
    run = BenchmarkRun(client, plan.name, plan.identity(), plan.name)
    run.describe(plan, trials, data=data, environment=ENVIRONMENT)
    for trial_id, trial in trials.items():
        if trial.workers == skipped:
            continue
        run_id = run.start(trial, trial_id, data)
        curve = points(trial, losses(trial))
        for point in curve:
            run.point(run_id, point, started=0.0)
        if reason := (failures or {}).get(trial.workers):
            run.fail(run_id, reason)
            continue
        scores = score(pd.DataFrame(curve), plan.workload.target.loss)
        scores["expected_bytes_per_worker"] = scores["bytes_sent_per_worker"]
        weights = f"{trial.workers}{trial.seed}" * 32
        result = {"device": "cpu", "replicas": 1, "weights_sha256": weights}
        record = {"trial": asdict(trial), "environment": ENVIRONMENT, "result": result}
        run.finish(run_id, scores, record)
    run.close("FINISHED")
    return load(client, plan.name)


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


def given(results: Results) -> dict[str, Any]:
    """What the template is given, but for the figures."""
    content: dict[str, Any] = json.loads(pdf.inputs(results, {}, {})["report"])
    return content


def shown(results: Results) -> str:
    """All tables of the laid out document as JSON, without the places where a word may break."""
    inputs = pdf.inputs(results, {}, dict.fromkeys(figures.FIGURES, "left out"))
    tables = typst.query(pdf.TEMPLATE, "table", sys_inputs=inputs, ignore_system_fonts=True)
    return str(tables).replace("\u200b", "")


def text_in(figure: Figure) -> list[str]:
    found: list[Any] = figure.findobj(Text)
    return [text.get_text() for text in found]


def axes_of(figure: Figure) -> Any:
    (axes,) = figure.axes
    return axes


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
    whole: Results, dead: Results, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "report.pdf"
    written = pdf.write(whole, path)
    assert written == [path, *(path.with_suffix("") / f"{name}.svg" for name in figures.FIGURES)]
    assert all(file.stat().st_size > 1000 for file in written)
    assert pdf.write(dead, path) == [path]
    assert list(path.with_suffix("").iterdir()) == []


@pytest.mark.parametrize("name", figures.FIGURES)
def test_synthetic_data_is_called_so_in_title_captions_and_figures(
    name: str, whole: Results
) -> None:
    content = given(whole)
    assert "synthetic" in content["title"]
    assert "synthetic" in dict(content["facts"])["Data"]
    captions = {figure["title"]: figure["caption"] for figure in content["figures"]}
    assert all("Synthetic data" in caption for caption in captions.values())
    assert any("synthetic" in text for text in text_in(figures.FIGURES[name](whole)))


def test_real_data_is_never_called_synthetic(partial: Results) -> None:
    assert "synthetic" not in json.dumps(given(partial)).lower()


def test_what_was_run_is_stated(whole: Results) -> None:
    facts = dict(given(whole)["facts"])
    assert facts["Workload"] == "linear rule: Tower (lr = 0.1)"
    assert "click rate 25.00 %" in facts["Data"]
    assert "0.5623" in facts["Data"]
    assert "0.4000" in facts["Data"]
    assert facts["Algorithms"] == "baseline on 1 worker; synchronous SGD on 2 and 4 workers"
    assert facts["Scale"].startswith("batch of 10 examples per worker (weak scaling)")
    assert facts["Seeds"] == "0 and 1"
    assert facts["Code"] == "commit 0123456789ab, with uncommitted changes"


def test_markup_in_names_and_reasons_is_shown_as_it_is(partial: Results) -> None:
    document = shown(partial)
    for text in (f"{MARKUP}.tsv", f"rank 1: {MARKUP} in {LONG}", "line 3: <x>"):
        assert json.dumps(text)[1:-1] in document


def test_markup_in_the_name_of_a_benchmark_reaches_title_and_figures(whole: Results) -> None:
    named = replace(whole, benchmark=whole.benchmark | {"name": MARKUP})
    drawn, reasons = pdf.draw(named)
    assert (set(drawn), reasons) == (set(figures.FIGURES), {})
    inputs = pdf.inputs(named, drawn, reasons)
    headings = typst.query(pdf.TEMPLATE, "heading", sys_inputs=inputs, ignore_system_fonts=True)
    title = json.loads(headings)[0]["body"]["text"]
    assert title == f"Benchmark {MARKUP} (synthetic data)"


def test_the_summary_gives_the_mean_and_the_spread_over_seeds(whole: Results) -> None:
    baseline, two, four = given(whole)["summary"]["rows"]
    assert baseline == [
        "baseline", "1", "2 of 2", "2 of 2", "250\n200–300", "2,500\n2,000–3,000", "2.5\n2.0–3.0",
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
    assert set(drawn) == {"loss_against_steps", "loss_against_seconds", "bytes_sent"}
    assert reasons == {
        "speedup": "every trial that finished ran on the same number of workers",
    }
    drawn, reasons = pdf.draw(dead)
    assert drawn == {}
    assert set(reasons) == set(figures.FIGURES)
    content = json.loads(pdf.inputs(dead, drawn, reasons)["report"])
    assert [figure["lacking"] for figure in content["figures"]] == list(reasons.values())
    assert content["answer"][0].startswith("No trial finished")


# --- the figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_figure_names_the_quantities_on_its_axes(name: str, whole: Results) -> None:
    axes = axes_of(figures.FIGURES[name](whole))
    assert axes.get_xlabel()
    assert axes.get_ylabel() or all(label.get_text() for label in axes.get_yticklabels())


def test_loss_curves_are_means_over_seeds_with_a_band_and_labelled_levels(whole: Results) -> None:
    figure = figures.loss_against_steps(whole)
    axes = axes_of(figure)
    line = next(line for line in axes.lines if len(line.get_xdata()) == 4)
    assert list(line.get_xdata()) == [100, 200, 300, 400]
    assert list(line.get_ydata()) == pytest.approx([0.7, 0.55, 0.45, 0.44])
    assert len(axes.collections) == 3
    labels = text_in(figure)
    assert {"target 0.5", "Bayes 0.4", "baseline, 1 worker", "synchronous SGD, 4 workers"} <= set(
        labels
    )


def test_an_unfinished_trial_is_drawn_to_where_it_stopped(partial: Results) -> None:
    figure = figures.loss_against_seconds(partial)
    (cross,) = [line for line in axes_of(figure).lines if line.get_marker() == "x"]
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (pytest.approx(8 / 1.2), 0.6)
    assert "synchronous SGD, 4 workers (unfinished)" in text_in(figure)


def test_speedup_is_relative_to_the_baseline_and_hollow_with_more_ranks_than_cores(
    whole: Results,
) -> None:
    axes = axes_of(figures.speedup(whole))
    marks = {
        line.get_xdata()[0]: (line.get_ydata()[0], to_hex(line.get_markerfacecolor()))
        for line in axes.lines
        if len(line.get_xdata()) == 1 and line.get_marker() != "None"
    }
    assert {n: mark[0] for n, mark in marks.items()} == pytest.approx({1: 1.0, 2: 1.5, 4: 1.2})
    assert marks[4][1] == "#ffffff"
    assert "#ffffff" not in (marks[1][1], marks[2][1])
    captions = {figure["title"]: figure["caption"] for figure in given(whole)["figures"]}
    assert "baseline on 1 worker (1,000 examples/s)" in captions["Speedup"]
    assert "more ranks than cores" in captions["Speedup"]


def test_bytes_measured_stand_beside_bytes_expected(whole: Results) -> None:
    doubled = replace(
        whole,
        trials=whole.trials.assign(
            expected_bytes_per_worker=2 * whole.trials["bytes_sent_per_worker"]
        ),
    )
    labels = text_in(figures.bytes_sent(doubled))
    assert "16.0 kB, 50.00 % of expected" in labels
    assert "baseline, 1 worker" not in labels


def test_an_algorithm_keeps_its_colour_and_a_number_of_workers_its_marker(whole: Results) -> None:
    def styles(figure: Figure) -> set[tuple[str, str]]:
        lines = [line for line in axes_of(figure).lines if line.get_marker() in figures.MARKERS]
        return {(line.get_color(), line.get_marker()) for line in lines}

    expected = {
        (figures.BASELINE_COLOUR, "o"),
        (figures.COLOURS[0], "s"),
        (figures.COLOURS[0], "^"),
    }
    assert styles(figures.loss_against_steps(whole)) == expected
    assert styles(figures.loss_against_seconds(whole)) == expected
    assert styles(figures.speedup(whole)) == expected
    assert styles(figures.bytes_sent(whole)) < expected


def test_two_entries_of_one_algorithm_are_told_apart_by_their_labels(whole: Results) -> None:
    twice = {"baseline": "one", "sync_sgd": "SGD", "slow": "SGD"}
    named = replace(whole, benchmark=whole.benchmark | {"titles": twice})
    assert figures.names(named) == {
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
    assert figures.spread(wanted, gap=0.2) == pytest.approx(placed)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.00 kB"), (12_345, "12.3 kB"), (123_456_789, "123 MB")],
)
def test_bytes_have_three_digits_and_a_prefix(number: float, text: str) -> None:
    assert figures.si_bytes(number) == text
