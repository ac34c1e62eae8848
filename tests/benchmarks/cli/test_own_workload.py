"""A person's own model from the command line, under every algorithm."""

from pathlib import Path

import pytest

from paceline.lightning_modules import find_algorithms
from tests import ROOT
from tests.checkout import Checkout
from tests.own_workload import SMALL, TEXT


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The example under every algorithm, from a copy of its file that is changed afterwards."""
    checkout = Checkout(tmp_path_factory.mktemp("own"))
    file = checkout.folder / "my_model.py"
    file.write_text(TEXT)
    # At the example's rate of 0.5, the staleness of Downpour's pushes decides whether its loss falls.
    command = ["run", "--workload", f"{file}:MyTask", f"--report={checkout.pdf}"]
    done = checkout.call(*command, *SMALL, "--workload.task.lr=0.1")
    assert done.returncode == 0, done.stderr + done.stdout
    file.write_text("raise RuntimeError('changed')")
    return checkout


def test_every_algorithm_trains_the_example(finished: Checkout) -> None:
    found = finished.rows("my_model")
    assert {row["algorithm"] for row in found} == set(find_algorithms())
    for row in found:
        assert row["status"] == "FINISHED"
        assert row["workers"] == ("1" if row["algorithm"] == "baseline" else "2")
        assert row["data"] == "MyData"
        assert float(row["final_loss"]) < 2.3  # ln 10, of a constant prediction
    assert finished.pdf.read_bytes().startswith(b"%PDF")


def test_a_lightning_module_runs_with_a_metric_or_without_and_is_reported(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    file = checkout.folder / "module.py"
    example = (ROOT / "docs" / "examples" / "my_lightning_module.py").read_text()
    pick = ["--only=baseline,sync_sgd,codistillation", "--workload.budget.examples=2000"]
    for metric in ('        self.log("val_acc", self.accuracy)\n', ""):
        text = example.replace('        self.log("val_acc", self.accuracy)\n', metric)
        file.write_text(f"{text}\n    def on_train_end(self):\n        pass\n")
        command = ["run", "--workload", f"{file}:Digits", f"--report={checkout.pdf}"]
        done = checkout.call(*command, *pick)
        assert done.returncode == 0, done.stderr + done.stdout
        told = done.stderr + done.stdout
        assert "module.py:Digits: not called: on_train_end" in told
        assert "left out: algorithms.codistillation: needs logits and labels" in told
        found = checkout.rows("module")
        assert {row["algorithm"] for row in found} == {"baseline", "sync_sgd"}
        assert all(row["status"] == "FINISHED" for row in found)
        assert all(bool(row["final_metric"]) == bool(metric) for row in found)
        assert checkout.pdf.read_bytes().startswith(b"%PDF")


def test_a_rerun_repeats_the_text_that_was_run_whatever_is_in_the_file_now(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path)
    rows = checkout.rows("my_model")
    run_id = next(row["run_id"] for row in rows if row["algorithm"] == "sync_sgd")
    refused = checkout.call("rerun", run_id)
    assert refused.returncode == 2
    assert "the record holds other code than" in refused.stderr
    assert "-raise RuntimeError('changed')" in refused.stderr
    assert "--trust-recorded-code" in refused.stderr.splitlines()[-1]
    repeated = checkout.call("rerun", run_id, "--trust-recorded-code")
    assert repeated.returncode == 0, repeated.stderr
    assert "bitwise equal" in repeated.stdout
    assert "differs" not in repeated.stdout


def test_the_command_line_wants_one_of_a_benchmark_and_a_workload(checkout: Checkout) -> None:
    both = checkout.call("run", "criteo", "--workload", "x.py:X")
    assert both.returncode == 2
    assert "not allowed with argument" in both.stderr
    wrong = checkout.call("run", "--workload", "nonesuch.py:X")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: cannot read nonesuch.py: No such file or directory\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)
