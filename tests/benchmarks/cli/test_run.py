"""The command line from rows to PDF, in processes of its own, and what interruptions leave behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from paceline.reports.measures.results import (
    COLUMNS,
    PREDICTIONS_FILE,
    RECORD_FILE,
    RERUN,
    read_json,
    search,
)
from tests import ROOT
from tests.checkout import Checkout, output_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A benchmark that has run to its end, which tests only read."""
    checkout = Checkout(tmp_path_factory.mktemp("finished"))
    done = checkout.run()
    assert done.returncode == 0, done.stderr + done.stdout
    return checkout


@pytest.fixture
def copied(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of that, which tests change."""
    return finished.copy(tmp_path)


def test_results_have_a_row_a_trial_with_the_stable_columns(finished):
    rows = finished.rows()
    assert list(rows[0])[: len(COLUMNS)] == COLUMNS
    assert [(r["algorithm"], r["workers"], r["status"]) for r in rows] == [
        ("baseline", "1", "FINISHED"),
        ("sync_sgd", "2", "FINISHED"),
    ]
    for row in rows:
        assert row["data"] == "synthetic click log"
        assert float(row["final_loss"]) < 1
        assert 0 < float(row["final_metric"]) < 1
        assert float(row["examples_per_s"]) > 0
        assert len(row["weights_sha256"]) == 64
        assert float(row["bytes_sent_per_worker"]) == float(row["expected_bytes_per_worker"])
        assert row["param.batch_size"] == "100"
    assert float(rows[0]["bytes_sent_per_worker"]) == 0
    assert float(rows[1]["messages_per_worker"]) == 40


def test_two_checkouts_at_once_on_one_store_share_the_work(tmp_path):
    """Each in a folder of its own, with a file of its own that holds the same."""
    text = (ROOT / "docs" / "examples" / "my_model.py").read_text()
    small = ["--only=sync_sgd", "--workload.budget.examples=640", "--seeds=[0,1]"]
    store = Checkout(tmp_path)
    started = []
    for name in ("one", "other"):
        (folder := tmp_path / name).mkdir()
        (folder / "my_model.py").write_text(text)
        task = ["--workload", f"{folder / 'my_model.py'}:MyTask", f"--report={folder / 'r.pdf'}"]
        started.append(store.start("run", *task, *small, PACELINE_HOME=str(folder)))
    for process in started:
        out, err = process.communicate(timeout=170)
        assert process.returncode == 0, err + out
    assert len(store.trials("FINISHED", "my_model")) == 2


def test_the_same_command_again_runs_nothing(copied):
    before = copied.trials("FINISHED")
    again = copied.run()
    assert again.returncode == 0
    assert "2 of 2 trials are finished already" in again.stdout
    assert copied.trials("FINISHED") == before


def test_report_draws_the_same_bytes_from_the_store(copied):
    drawn = copied.pdf.read_bytes()
    other = copied.folder / "again.pdf"
    assert copied.call("report", str(copied.yaml), f"--report={other}").returncode == 0
    assert other.read_bytes() == drawn
    assert drawn.startswith(b"%PDF")


def test_the_parent_run_holds_the_report_and_every_trial_its_record(finished):
    client = finished.client
    (parent,) = search(client, "tiny", paceline__kind="benchmark")
    assert parent.info.status == "FINISHED"
    stored = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "report")}
    assert "report/tiny.pdf" in stored
    for run in search(client, "tiny", paceline__kind="trial"):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        conditions = read_json(client, run.info.run_id, RECORD_FILE)["conditions"]
        assert conditions["began"].endswith("+00:00")
        assert conditions["seconds"] > 0
        assert 0 <= conditions["others_cores"] <= len(os.sched_getaffinity(0))
        losses = client.get_metric_history(run.info.run_id, "validation_loss")
        assert len(losses) == 2


def test_a_rerun_of_a_synchronous_trial_is_bitwise_equal(copied):
    run_id = copied.rows()[1]["run_id"]
    repeated = copied.call("rerun", run_id[:8])  # as the report shows it
    assert repeated.returncode == 0, repeated.stderr
    assert f"rerun of {run_id}: bitwise equal" in repeated.stdout
    assert "differs" not in repeated.stdout
    assert copied.client.get_run(run_id).data.tags[RERUN] == "bitwise equal"


def test_a_trial_keeps_its_predictions(finished, tmp_path):
    client = finished.client
    for row in finished.rows():
        file = client.download_artifacts(row["run_id"], PREDICTIONS_FILE, str(tmp_path))
        (predicted,) = np.load(file).values()
        assert predicted.shape == (1000,)
        assert ((predicted > 0) & (predicted < 1)).all()


def test_a_diverged_trial_fails_with_its_reason_and_the_others_go_on(copied):
    done = copied.run("--algorithms.baseline.workers=[1]", "--workload.task.lr=1e30")
    assert done.returncode == 1
    assert "failed trials: 2; the same command tries them again" in done.stdout
    reasons = copied.trials("FAILED")
    assert len(reasons) == 2
    assert all("raised Diverged: the training loss is" in reason for reason in reasons)


def test_a_fault_that_was_asked_for_fails_the_trials_that_have_its_rank(copied):
    done = copied.run("--name=faulty", "--fault.kind=raise", "--fault.rank=1", "--fault.step=7")
    assert done.returncode == 1
    assert "FAILED: rank 1 raised InjectedFault: the fault asked for at step 7" in done.stdout
    assert "1 of 2" not in done.stdout
    assert "failed trials: 1; the same command tries them again" in done.stdout


def test_mistakes_exit_with_2_and_one_line(finished):
    for arguments, message in {
        ("rerun", "nonesuch"): "error: 'nonesuch' is no run's id; `results` shows them\n",
        ("run", "nonesuch"): "error: no benchmark 'nonesuch'; `list` shows them all\n",
        ("results", "criteo"): "error: no run of benchmark 'criteo' in this store;"
        " `run criteo` makes one\n",
        ("--store=sqlite:////nonesuch/x.db", "results", "criteo"): "error: no store at"
        " sqlite:////nonesuch/x.db: no benchmark has been run into it yet\n",
        (
            "run",
            str(finished.yaml),
            "--data",
            "/nonesuch",
        ): "error: cannot read /nonesuch: No such file or directory",
    }.items():
        done = finished.call(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(message), done.stderr
        assert done.stderr.count("\n") == 1


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


SYNC_LAST = "--seeds=[2]"  # of this seed, the baseline runs first


def halt_second_trial(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Stops a rank of sync SGD on 2 workers, so that the trial cannot end, and gives its ranks."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[2/2]"):
            break
    parent = psutil.Process(process.pid)
    while True:
        # The ranks are children of the fork server, which is a child of the parent.
        ranks = [rank for child in parent.children() for rank in child.children()]
        if len(ranks) == 2:
            ranks[1].suspend()
            return ranks
        time.sleep(0.01)


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_ends_the_rest(checkout):
    process = checkout.start(*checkout.run_command(), SYNC_LAST)
    ranks = halt_second_trial(process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("interrupted; run the same command again to continue\n")
    assert not any(rank.is_running() for rank in ranks)
    assert len(checkout.trials("FINISHED")) == 1
    assert checkout.trials("KILLED") == ["sync_sgd, 2 workers, seed 2: interrupted by the user"]
    done = checkout.run(SYNC_LAST)
    assert done.returncode == 0
    assert "1 of 2 trials are finished already" in done.stdout
    assert [row["status"] for row in checkout.rows()] == ["FINISHED", "FINISHED"]


def test_a_killed_parent_loses_no_finished_trial_and_leaves_no_rank(checkout):
    process = checkout.start(*checkout.run_command(), SYNC_LAST)
    ranks = halt_second_trial(process)
    process.kill()
    ranks[1].resume()
    _, alive = psutil.wait_procs(ranks, timeout=20)
    process.communicate(timeout=60)
    assert not alive
    assert len(checkout.trials("FINISHED")) == 1
    done = checkout.run(SYNC_LAST)
    assert done.returncode == 0
    assert "1 of 2 trials are finished already" in done.stdout
    assert checkout.trials("KILLED") == [
        "sync_sgd, 2 workers, seed 2: interrupted: the process that ran it is gone"
    ]
    assert [row["status"] for row in checkout.rows()] == ["FINISHED", "FINISHED"]


def test_a_killed_rank_fails_its_trial_only(checkout):
    process = checkout.start(*checkout.run_command(), SYNC_LAST)
    ranks = halt_second_trial(process)
    ranks[1].kill()
    out, err = output_of(process)
    assert process.returncode == 1, err
    assert "failed trials: 1" in out
    assert len(checkout.trials("FINISHED")) == 1
    (failed,) = checkout.trials("FAILED")
    assert "was killed by SIGKILL" in failed
