"""The document: its bytes, its markup, its trials and the figures that it has."""

import html
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typst

from paceline.reports import pdf
from paceline.reports.figures import catalogue
from paceline.reports.measures.results import Results
from tests import ROOT
from tests.drawn import text_in
from tests.report_store import LONG, MARKUP
from tests.told import given, shown

TABLES = ("trials.csv", "trials.parquet", "curves.csv", "curves.parquet")


def test_the_same_results_give_the_same_bytes_in_two_processes(
    whole: Results, folder: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from mlflow.tracking import MlflowClient;"
        "from paceline.reports import pdf; from paceline.reports.measures import results;"
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
    inputs = pdf.inputs(pdf.content(whole, *pdf.draw(whole)))
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
    always = [path, path.with_suffix(".html"), *(path.with_suffix("") / name for name in TABLES)]
    assert written == [
        *always,
        *(path.with_suffix("") / f"{name}.svg" for name in catalogue.figures_of(every)),
    ]
    assert all(file.stat().st_size > 1000 for file in written)
    assert pdf.write(dead, path) == always
    assert {file.name for file in path.with_suffix("").iterdir()} == set(TABLES)


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


def test_markup_in_names_and_reasons_is_shown_as_it_is(partial: Results) -> None:
    document = shown(partial)
    for text in (f"{MARKUP}.tsv", f"rank 1: {MARKUP} in {LONG}", "line 3: <x>"):
        assert json.dumps(text)[1:-1] in document


def test_markup_in_the_name_of_a_benchmark_reaches_title_and_figures(every: Results) -> None:
    named = replace(every, benchmark=every.benchmark | {"name": MARKUP})
    drawn, reasons = pdf.draw(named)
    assert (set(drawn), reasons) == (set(catalogue.figures_of(every)), {})
    inputs = pdf.inputs(pdf.content(named, drawn, reasons))
    headings = typst.query(pdf.TEMPLATE, "heading", sys_inputs=inputs, ignore_system_fonts=True)
    title = json.loads(headings)[0]["body"]["text"]
    assert title == f"Benchmark {MARKUP} (synthetic data)"


def test_the_table_of_trials_gives_each_failure_its_reason(partial: Results) -> None:
    missing, finished, failed = given(partial)["trials"]["rows"]
    assert missing["remark"] == "never started"
    assert finished["remark"] is None
    assert finished["cells"][-2:] == ["20202020", partial.trials["run_id"][1][:8]]
    assert failed["cells"][3] == "failed"
    assert failed["remark"] == f"rank 1: {MARKUP} in {LONG}"


def test_a_trial_still_running_is_not_called_failed(dead: Results) -> None:
    running = replace(dead, trials=dead.trials.assign(status="RUNNING", failure=None))
    (row,) = given(running)["trials"]["rows"]
    assert (row["cells"][3], row["remark"]) == ("running", "not ended when this report was drawn")


def test_a_very_long_reason_is_cut_and_says_so(dead: Results) -> None:
    wordy = replace(dead, trials=dead.trials.assign(failure="word\n" * 1000))
    reason = given(wordy)["trials"]["rows"][0]["remark"]
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
        "pareto": "no configuration reached the target in all its trials that ended",
        "churn_matrix": "no configuration finished with several seeds and kept predictions",
        "staleness": "no trial that finished recorded the staleness of its pushes",
        "residuals": "no trial that finished measured the residuals of consensus ADMM",
        "divergence": "no trial that finished measured the distance of replicas from their average",
    }
    drawn, reasons = pdf.draw(dead)
    assert drawn == {}
    assert set(reasons) == set(catalogue.FIGURES)
    content = pdf.content(dead, drawn, reasons)
    assert [figure["lacking"] for figure in content["figures"]] == list(reasons.values())
    laid_out = typst.query(
        pdf.TEMPLATE,
        "heading",
        sys_inputs=pdf.inputs(pdf.content(dead, drawn, reasons)),
        ignore_system_fonts=True,
    )
    assert "Figures not drawn" in laid_out
    assert content["answer"][0].startswith("No trial finished")


def test_the_page_has_the_texts_of_the_document_and_shows_markup_as_it_is(
    every: Results, tmp_path: Path
) -> None:
    (page,) = (p for p in pdf.write(every, tmp_path / "r.pdf") if p.suffix == ".html")
    text = page.read_text(encoding="utf-8")
    told = pdf.content(every, *pdf.draw(every))
    shown_text = html.unescape(text)
    for sentence in (
        told["title"],
        told["question"],
        told["scope"],
        *told["answer"],
        *told["remarks"],
    ):
        assert sentence in shown_text
    for row in told["trials"]["rows"]:
        assert all(cell in shown_text for cell in row["cells"])
    assert text.count('<img src="data:image/svg+xml;base64,') == len(pdf.draw(every)[0])
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)  # it needs no other file
    marked = pdf.html({**told, "title": "<script>alert(1)</script>"})
    assert "<script>" not in marked


def test_the_tables_hold_every_trial_and_every_evaluation(every: Results, tmp_path: Path) -> None:
    pdf.write(every, tmp_path / "r.pdf")
    for name, frame in (("trials", every.trials), ("curves", every.curves)):
        as_text = pd.read_csv(tmp_path / "r" / f"{name}.csv")
        binary = pd.read_parquet(tmp_path / "r" / f"{name}.parquet")
        assert list(as_text) == list(binary) == list(frame)
        assert len(as_text) == len(binary) == len(frame)
        losses = "final_loss" if name == "trials" else "validation_loss"
        np.testing.assert_allclose(
            binary[losses].to_numpy(float, na_value=np.nan), frame[losses].to_numpy(float)
        )
