"""A sweep whose nodes run trials of their own at the same time."""

import os
import subprocess
import sys

import pytest
from optuna.trial import TrialState

from paceline.benchmarks.sweeps.handing_out import counted
from paceline.reports.measures.results import RECORD_FILE, read_json, search
from tests import ROOT
from tests.machines import machines
from tests.sweeps import BENCHMARK, Sweep

TRIALS = int(os.environ.get("PACELINE_TEST_TRIALS", 6))
# Each trial waits for seconds, so two of them at once need no more cores than one.
SLEEPING = (
    BENCHMARK.replace("lr: 0.1}", "lr: 0.1, evaluation_pause_s: 1.0}")
    .replace("  model_averaging: {tau: 5}\n", "")
    .replace("workers: [2]", "workers: [1]")
    .replace("trials: 4", f"trials: {TRIALS}")
)


@pytest.mark.timeout(300)
def test_groups_of_nodes_share_the_trials_of_a_study(tmp_path):
    sweep = Sweep(tmp_path, SLEEPING)
    command = ["sweep", str(sweep.yaml), "--studies", sweep.studies, f"--report={sweep.pdf}"]
    outputs = []
    with machines(2) as made:
        processes = [
            made.popen(
                node,
                [sys.executable, "-m", "benchmarks", *command, "--nodes-per-trial=1"],
                os.environ
                | {"NNODES": "2", "NODE_RANK": str(node), "MASTER_ADDR": "n1"}
                | {"PACELINE_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": sweep.uri},
                ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for node in (0, 1)
        ]
        outputs = [process.communicate(timeout=250)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    (study,) = (s for n, s in sweep.opened().items() if "retrains" not in n)
    trials = counted(study.trials)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * TRIALS
    assert len({str(trial.params) for trial in trials}) == TRIALS
    runs = search(sweep.client, "tiny-sweep", paceline__kind="trial")
    assert [run.info.status for run in runs] == ["FINISHED"] * 2  # the retrains, each once
    tuned = search(sweep.client, "tiny-sweep", paceline__kind="tuning")
    nodes = [
        read_json(sweep.client, run.info.run_id, RECORD_FILE)["result"]["node"] for run in tuned
    ]
    assert set(nodes) == {"n1", "n2"}
    begin = min(run.info.start_time for run in tuned)
    whole = max(run.info.end_time for run in tuned) - begin
    work = sum(run.info.end_time - run.info.start_time for run in tuned)
    print(f"{nodes}: {work / whole:.2f} trials at once")
    assert "group 1: " in outputs[0]
