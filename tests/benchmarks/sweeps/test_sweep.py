"""Sweeps from the command line: what they store, and what interruptions leave behind."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from math import inf

import pytest
from optuna.trial import TrialState

from paceline.benchmarks.sweeps.handing_out import counted
from paceline.reports.measures.results import BENCHMARK_FILE, load, read_json
from tests.checkout import output_of
from tests.sweeps import BENCHMARK, WORKLOAD, Sweep, read_until
from tests.workload import Bowl


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep that has run to its end, which tests only read."""
    checkout = Sweep(tmp_path_factory.mktemp("swept"))
    checkout.complete()
    return checkout


def test_every_study_has_the_same_budget_and_begins_with_the_yaml(swept):
    for label in ("sync_sgd", "model_averaging"):
        (study,) = (s for n, s in swept.opened().items() if label in n and "retrains" not in n)
        trials = counted(study.trials)
        assert len(trials) == 4
        yaml = {"model_averaging": {"tau": 5, "outer_lr": 1.0, "outer_momentum": 0.0}}
        assert trials[0].params.items() >= yaml.get(label, {"lr": 0.1}).items()
        assert len({json.dumps(trial.params, sort_keys=True) for trial in trials}) == 4


def test_only_retrains_of_the_best_on_fresh_seeds_are_scored(swept):
    results = load(swept.client, "tiny-sweep")
    assert results.trials["seed"].tolist() == [100, 101] * 2
    assert set(results.trials["status"]) == {"FINISHED"}
    for study in results.benchmark["sweep"]["studies"]:
        trials = {trial["number"]: trial for trial in study["trials"]}
        finished = [t for t in trials.values() if t["state"] == "COMPLETE"]
        best = trials[study["best"]]
        assert best["values"] == min(t["values"] for t in finished)
        scored = results.trials[results.trials["algorithm"] == study["algorithm"]]
        for name, drawn in best["drawn"].items():
            column = "param.task.lr" if name == "lr" else f"param.{name}"
            assert set(scored[column].astype(float)) == {float(drawn)}


def test_study_trial_and_retrain_nest_in_mlflow(swept):
    (parent,) = swept.runs("benchmark")
    studies = {run.info.run_id: run for run in swept.runs("study")}
    assert {run.data.tags["mlflow.parentRunId"] for run in studies.values()} == {parent.info.run_id}
    for kind, number in (("tuning", 8), ("trial", 4)):
        runs = swept.runs(kind)
        assert len(runs) == number
        assert {run.data.tags["mlflow.parentRunId"] for run in runs} == set(studies)
    for kind in ("benchmark", "study", "trial"):
        assert {run.info.status for run in swept.runs(kind)} == {"FINISHED"}


def test_the_same_command_again_runs_nothing_and_a_larger_budget_the_rest(swept, tmp_path):
    checkout = swept.copy(tmp_path)
    before = len(checkout.runs("tuning")), len(checkout.runs("trial"))
    checkout.complete()
    assert (len(checkout.runs("tuning")), len(checkout.runs("trial"))) == before
    checkout.complete("--sweep.trials=5", "--sweep.algorithms=[sync_sgd]")
    assert len(checkout.runs("tuning")) == before[0] + 1
    assert len(checkout.runs("benchmark")) == 1


def test_retrains_that_mlflow_has_lost_are_made_again_though_optuna_has_them(swept, tmp_path):
    checkout = Sweep(tmp_path)
    shutil.copy(swept.studies, checkout.studies)
    only = "--sweep.algorithms=[sync_sgd]"
    assert "failed trials" not in checkout.complete(only)
    assert sorted(run.data.params["seed"] for run in checkout.runs("trial")) == ["100", "101"]
    assert not checkout.runs("tuning"), "what Optuna knows of them is enough"
    (removed, _) = checkout.runs("trial")
    checkout.client.delete_run(removed.info.run_id)
    checkout.complete(only)
    assert [run.info.status for run in checkout.runs("trial")] == ["FINISHED"] * 2
    checkout.complete(only)
    assert len(checkout.runs("trial")) == 2


def test_optuna_shows_the_studies_on_a_page_of_this_machine(swept):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = swept.start(
        *("dashboard", f"--port={port}", "--studies", swept.studies), stderr=subprocess.STDOUT
    )
    try:
        answer = answer_of(page, f"http://127.0.0.1:{port}/api/studies")
    finally:
        page.terminate()
        page.communicate(timeout=30)
    shown = {study["study_name"] for study in json.loads(answer)["study_summaries"]}
    assert shown == set(swept.opened())


def answer_of(server: "subprocess.Popen[str]", address: str) -> str:
    """What a page holds, once its server listens: it says that it does before it does."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(f"the server ended: {server.stdout.read()}")


def test_a_killed_sweep_goes_on_with_its_trial(tmp_path):
    checkout = Sweep(tmp_path)
    only = "--sweep.algorithms=[sync_sgd]"
    process = checkout.begin(only, "--workload.data.pause_s=0.02")
    read_until(process, "[2/4]")
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (killed,) = checkout.opened().values()
    assert [t.state.name for t in killed.trials] == ["COMPLETE", "RUNNING"]
    checkout.complete(only, "--workload.data.pause_s=0.02")
    study = checkout.opened()[killed.study_name]
    assert [t.state.name for t in study.trials[:3]] == [
        "COMPLETE",
        "FAIL",
        study.trials[2].state.name,
    ]
    assert study.trials[2].params == study.trials[1].params
    assert len(counted(study.trials)) == 4
    assert len(study.trials) == 5
    assert "KILLED" in {run.info.status for run in checkout.runs("tuning")}
    assert [run.info.status for run in checkout.runs("trial")] == ["FINISHED"] * 2


def test_a_trial_whose_rank_dies_is_told_with_its_reason_and_the_study_goes_on(tmp_path):
    fault = ["--fault.kind=kill", "--fault.rank=1", "--fault.step=5"]
    checkout = Sweep(tmp_path)
    process = checkout.begin("--sweep.algorithms=[sync_sgd]", "--sweep.trials=2", *fault)
    out, _ = output_of(process)
    assert process.returncode == 1, out
    assert "sync_sgd, 2 workers: no trial finished, so there is nothing to retrain" in out
    assert checkout.states("sync_sgd") == ["FAIL", "FAIL"]
    sweep = read_json(checkout.client, checkout.runs("benchmark")[0].info.run_id, BENCHMARK_FILE)
    reasons = [trial["reason"] for trial in sweep["sweep"]["studies"][0]["trials"]]
    assert reasons == ["rank 1 was killed by SIGKILL"] * 2


def test_a_trial_that_diverges_is_given_up_and_the_rest_goes_on(tmp_path):
    text = BENCHMARK.replace("Tower", "Explosive")
    checkout = Sweep(tmp_path, text)
    checkout.complete("--sweep.algorithms=[sync_sgd]", "--sweep.trials=4")
    (study,) = (s for n, s in checkout.opened().items() if "retrains" not in n)
    for trial in study.trials:
        diverged = trial.params["lr"] > 1
        assert trial.state == (TrialState.PRUNED if diverged else TrialState.COMPLETE)
        assert ("Diverged" in trial.user_attrs.get("reason", "")) == diverged
    assert {trial.state for trial in study.trials} == {TrialState.PRUNED, TrialState.COMPLETE}


def test_several_objectives_give_a_front_of_configurations_trained_on_every_seed(tmp_path):
    checkout = Sweep(tmp_path)
    objectives = "--sweep.objectives=[modelled_time_to_target_s,churn]"
    settings = ["--sweep.sampler=nsga2", "--sweep.tuning_seeds=[0,1]", "--sweep.seeds=[100]"]
    checkout.complete(objectives, *settings, "--sweep.algorithms=[sync_sgd]", "--sweep.trials=3")
    (study,) = load(checkout.client, "tiny-sweep").benchmark["sweep"]["studies"]
    assert len(study["trials"]) == 3
    for trial in study["trials"]:
        assert len(trial["run_ids"]) == 2
        assert all(value > 0 for value in trial["values"])
    front = {t["number"]: t["values"] for t in study["trials"] if t["number"] in study["front"]}
    assert study["best"] in front
    # Over another link the seconds are others, and so is the study.
    checkout.complete(
        objectives, *settings, "--sweep.algorithms=[sync_sgd]", "--sweep.trials=1", LINK
    )
    assert len({name for name in checkout.opened() if "retrains" not in name}) == 2
    for a, b in itertools.permutations(front.values(), 2):
        assert not (a[0] <= b[0] and a[1] <= b[1]), "one of them is beaten in both"


def test_only_trials_that_cannot_win_are_given_up(tmp_path):
    checkout = Sweep(tmp_path)
    checkout.complete(
        "--sweep.objectives=[bytes_to_target]",
        "--sweep.algorithms=[model_averaging]",
        "--sweep.trials=8",
        "--sweep.seeds=[100]",
        "--workload.budget.evaluations=20",
    )
    (study,) = load(checkout.client, "tiny-sweep").benchmark["sweep"]["studies"]
    best, given_up = inf, 0
    for trial in study["trials"]:
        (run,) = trial["run_ids"]
        spent = [p.value for p in checkout.client.get_metric_history(run, "bytes_sent_per_worker")]
        if trial["state"] == "PRUNED":
            given_up += 1
            assert spent[-1] > best, "a finished one had needed less"
            assert all(s <= best for s in spent[:-1]), "it might still have won"
            assert len(spent) < 20, "at its end there is nothing to save"
        elif trial["excess"] <= 0:
            best = min(best, *trial["values"])
    assert given_up


LINK = "--link=wan-100m-50ms"
BOWL = f"""
name: small # the draws of a study follow from its title; under other titles, 12 may not be enough
workload:
  data: {{class: "{WORKLOAD}:LinearRule", rows: 1000}}
  task: {{class: "{WORKLOAD}:Bowl"}}
  target: {{loss: 1.0e-6}}
  budget: {{examples: 120, epochs: 1000, evaluations: 3}}
algorithms:
  baseline: {{workers: [1]}}
  sync_sgd:
  downpour: {{workers: [1]}} # the staleness of several lowers the best rate
  admm: {{local_steps: 1}}
  model_averaging: {{tau: 1}}
  codistillation:
scale: {{workers: [2], batch_size: 10}}
sweep: {{only: [lr], objectives: [final_loss], tuning_seeds: [0], seeds: [100]}}
"""


@pytest.mark.timeout(600)
def test_every_algorithm_finds_a_known_learning_rate_in_the_default_budget(tmp_path):
    checkout = Sweep(tmp_path, BOWL)
    process = checkout.begin()
    out, _ = output_of(process)
    assert process.returncode == 0, out
    studies = load(checkout.client, "small-sweep").benchmark["sweep"]["studies"]
    assert len(studies) == 6
    for study in studies:
        trials = {trial["number"]: trial for trial in study["trials"]}
        best, shipped = trials[study["best"]], trials[0]
        assert len(trials) == 12
        assert 0.5 <= best["drawn"]["lr"] * Bowl.CURVATURE <= 2, study["algorithm"]
        assert best["values"] < shipped["values"], study["algorithm"]
