"""Sweeps: search spaces, budgets, who gets which trial, and what interruptions leave behind."""

import inspect
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from paceline.benchmarks.spec.benchmark import Benchmark
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.sweeps.drawing import suggest
from paceline.benchmarks.sweeps.handing_out import PROCESS, counted, hand_out, queue
from paceline.benchmarks.sweeps.objectives import chosen, excess, is_dominated, lower_bounds, value
from paceline.benchmarks.sweeps.plan import StudyPlan, identity, plans
from paceline.benchmarks.sweeps.studies import Studies
from paceline.benchmarks.trials.environment import process_name
from paceline.benchmarks.trials.runner import Ended
from paceline.lightning_modules import find_algorithms
from paceline.lightning_modules.backend.search import Choice, Integer, Real
from paceline.reports.measures.link import PRESETS
from paceline.reports.measures.results import BENCHMARK_FILE, load, read_json, search
from tests import ROOT
from tests.workload import Bowl

BENCHMARK = """
workload:
  data: {class: "tests.workload:LinearRule", rows: 1000}
  task: {class: "tests.workload:Tower", lr: 0.1}
  target: {loss: 0.4}
  budget: {examples: 2000, epochs: 1000, evaluations: 4}
algorithms:
  sync_sgd:
  model_averaging: {tau: 5}
scale: {workers: [2], batch_size: 10}
sweep:
  trials: 4
  seeds: [100, 101]
  objectives: [final_loss]
"""


@pytest.fixture
def benchmark_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(BENCHMARK)
    return path


@pytest.fixture
def small(benchmark_file: Path) -> Benchmark:
    return load_benchmark(str(benchmark_file), [])


def with_sweep(benchmark: Benchmark, **settings: Any) -> Benchmark:
    return replace(benchmark, sweep=replace(benchmark.sweep, **settings))


# What is drawn


@pytest.mark.parametrize("name", find_algorithms())
def test_every_algorithm_states_dimensions_of_its_own_around_its_defaults(name, small):
    entry = small.algorithms["sync_sgd"] | {"algorithm": name}
    cls = find_algorithms()[name]
    own = {k: v.default for k, v in _parameters(cls).items() if k not in ("self", "task")}
    plan = StudyPlan(replace(small, algorithms={name: entry | own}), name, (1,))
    assert set(cls.search_space) <= set(own)
    for dimension, stated in cls.search_space.items():
        assert plan.space()[dimension] == stated, "the default lies outside of what is stated"


def _parameters(cls: type) -> dict[str, Any]:
    return dict(inspect.signature(cls.__init__).parameters)


def test_a_study_draws_the_task_then_the_algorithm_and_begins_with_the_yaml(small):
    plan = StudyPlan(small, "model_averaging", (2,))
    assert list(plan.space()) == ["lr", "tau", "ranks_per_replica", "outer_lr", "outer_momentum"]
    assert plan.queue() == [
        {"lr": 0.1, "tau": 5, "ranks_per_replica": 1, "outer_lr": 1.0, "outer_momentum": 0.0}
    ]


def test_a_space_is_widened_to_hold_the_value_of_the_yaml(small):
    entry = small.algorithms["model_averaging"] | {"tau": 1000, "ranks_per_replica": 3}
    plan = StudyPlan(replace(small, algorithms={"model_averaging": entry}), "model_averaging", (3,))
    assert plan.space()["tau"] == Integer(1, 1000, log=True)
    assert plan.space()["ranks_per_replica"] == Choice((3, 1, 2, 4, 8))


def test_only_what_makes_a_trial_is_drawn(small):
    """On 4 workers a replica has 1, 2 or 4 ranks, and ZeRO has something to divide in the last two."""
    plan = StudyPlan(with_sweep(small, zero_stages=[0, 1]), "model_averaging", (4,))
    seen = set()
    for number in range(60):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(number)).ask()
        drawn = plan.draw(trial)
        ranks, stage = drawn["ranks_per_replica"], drawn.get("zero_stage", 0)
        assert plan.trial(drawn, seed=0).layout.ranks == ranks
        seen.add((ranks, stage))
    assert seen == {(1, 0), (2, 0), (2, 1), (4, 0), (4, 1)}


def test_scale_is_a_dimension_like_any_other(small):
    settings = {"workers": [1, 2, 4], "pool_workers": True, "batch_sizes": [10, 20]}
    (plan, _), _ = plans(with_sweep(small, **settings))
    trials = set()
    for number in range(60):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(number)).ask()
        made = plan.trial(plan.draw(trial), seed=0)
        trials.add((made.workers, made.batch_size))
    assert trials == {(workers, size) for workers in (1, 2, 4) for size in (10, 20)}
    assert [configuration["workers"] for configuration in plan.queue()] == [1, 2, 4]


def test_seconds_bound_the_scale_by_the_machine_and_bytes_do_not(small):
    many = {"workers": [1, 1000]}
    timed, left_out = plans(with_sweep(small, objectives=["time_to_target_s"], **many))
    assert {plan.workers for plan in timed} == {(1,)}
    assert any("1000 workers: more than this machine has room for" in text for text in left_out)
    counted_in_bytes, _ = plans(with_sweep(small, objectives=["bytes_to_target"], **many))
    assert {plan.workers for plan in counted_in_bytes} == {(1,), (1000,)}


def test_a_larger_budget_goes_on_with_the_same_study(small):
    facts = {"code": "a"}
    larger = with_sweep(small, trials=99, seeds=[7], algorithms=["sync_sgd"])
    other = with_sweep(small, objectives=["bytes_to_target"])

    def name(benchmark: Benchmark) -> str:
        return StudyPlan(benchmark, "sync_sgd", (2,)).name(facts)

    assert name(larger) == name(small) != name(other)
    assert identity(larger, facts) == identity(small, facts) != identity(other, facts)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--sweep.seeds=[0,1]", r"sweep.seeds: \[0\] are tuned on; retrains need fresh seeds"),
        ("--sweep.objectives=[churn]", "churn needs two seeds to compare"),
        ("--sweep.objectives=[speed]", "sweep.objectives"),
        ("--sweep.trials=0", "must not be empty"),
        ("--sweep.trial=3", "did you mean '--sweep.trials'"),
    ],
)
def test_a_mistake_in_the_section_is_told_in_one_line(benchmark_file, override, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_benchmark(str(benchmark_file), [override])
    assert "\n" not in str(error.value)


def test_an_algorithm_or_a_dimension_that_there_is_not_is_named(small):
    with pytest.raises(ConfigError, match="no 'admm' in small; there are sync_sgd, model_averag"):
        plans(with_sweep(small, algorithms=["admm"]))
    with pytest.raises(ConfigError, match="draws 'taus'; did you mean 'tau'"):
        plans(with_sweep(small, only=["lr", "taus"]))


# What is minimised


def ended(losses: list[float], prediction: float = 0.5) -> Ended:
    """A trial that evaluated once a second and sent 10 bytes between two evaluations."""
    curve = [
        {
            "validation_loss": loss,
            "train_seconds": i + 1.0,
            "compute_seconds": i + 0.5,
            "bytes_sent_per_worker": 10.0 * (i + 1),
            "messages_per_worker": i + 1.0,
        }
        for i, loss in enumerate(losses)
    ]
    ledger = [
        {
            "operation": "send",
            "phase": "train",
            "group_size": 2,
            "messages": len(losses),
            "payload_bytes": 10.0 * len(losses),
            "calls": len(losses),
        }
    ]
    record = {"result": {"ranks": [{"ledger": ledger}]}}
    predictions = {"model": np.array([prediction, prediction], np.float32)}
    return Ended("run", curve, None, "", {"final_loss": losses[-1]}, record, predictions)


def test_objectives_by_hand():
    link = PRESETS["ethernet-10g"]
    reached, missed = ended([3.0, 1.0, 2.0]), ended([3.0, 2.5])
    assert value("time_to_target_s", [reached], 1.0, link) == 2
    assert value("bytes_to_target", [reached], 1.0, link) == 20
    assert value("final_loss", [reached, missed], 1.0, link) == 2.25
    assert excess([reached], 1.0) == 0
    # Missed: what was spent, and by how much it was missed.
    assert value("time_to_target_s", [reached, missed], 1.0, link) == 2
    assert value("time_to_target_s", [missed], 2.0, link) == 2
    assert excess([reached, missed], 1.0) == 1.5
    # Two of its three messages, of 30 us and 10 bytes each, after 1.5 s of computing.
    modelled = value("modelled_time_to_target_s", [reached], 1.0, link)
    assert modelled == pytest.approx(1.5 + 2 * (30e-6 + 10 / 1.25e9))
    three = [ended([1.0], prediction) for prediction in (0.1, 0.2, 0.4)]
    assert value("churn", three, 1.0, link) == pytest.approx((0.1 + 0.2 + 0.3) / 3)


def frozen(values: list[float], missed_by: float = 0.0) -> optuna.trial.FrozenTrial:
    study = optuna.create_study(directions=["minimize"] * len(values))
    trial = study.ask()
    trial.set_constraint("target", missed_by)
    study.tell(trial, values)
    return study.trials[0]


def test_a_trial_is_hopeless_once_another_is_better_in_everything_that_it_has_spent():
    objectives = ["time_to_target_s", "bytes_to_target"]
    point = {"train_seconds": 3.0, "bytes_sent_per_worker": 30.0, "compute_seconds": 1.0}
    bounds = lower_bounds(objectives, point)
    assert bounds == [3, 30]
    assert is_dominated(bounds, [frozen([9.0, 9.0]), frozen([2.0, 20.0])])
    assert not is_dominated(bounds, [frozen([2.0, 40.0]), frozen([4.0, 20.0])])
    assert not is_dominated(bounds, [frozen([2.0, 20.0], missed_by=0.1)])
    # A loss has no bound before the end.
    assert not is_dominated(
        lower_bounds(["time_to_target_s", "final_loss"], point), [frozen([1, 1])]
    )


def test_the_best_meets_the_target_or_comes_nearest():
    assert chosen([]) is None
    slow, fast, missed, nearly = (
        frozen([5.0]),
        frozen([4.0]),
        frozen([1.0], 0.5),
        frozen([2.0], 0.1),
    )
    assert chosen([slow, fast, missed]) is fast
    assert chosen([missed, nearly]) is nearly
    cheap, balanced, quick = frozen([9.0, 1.0]), frozen([2.0, 2.0]), frozen([1.0, 9.0])
    assert chosen([cheap, balanced, quick]) is balanced


# Who gets which trial


def draw_x(trial: optuna.Trial) -> None:
    suggest(trial, "x", Choice((1, 2, 3)))


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(str(tmp_path / "studies.journal"))


def test_no_configuration_is_handed_out_twice_and_none_beyond_the_budget(studies):
    study = studies.study("s")
    queue(study, [{"x": 2}])
    queue(study, [{"x": 2}])
    drawn = []
    while trial := hand_out(study, 10, draw_x, "random"):
        drawn.append(trial.params["x"])
        study.tell(trial, 1.0)
    assert drawn[0] == 2, "what is queued comes first"
    assert sorted(drawn) == [1, 2, 3], "the space has three configurations"
    assert len(counted(study.trials)) == 3
    assert hand_out(study, 3, draw_x, "random") is None


def test_where_nothing_is_drawn_the_configuration_of_the_yaml_is_all(studies):
    study = studies.study("s")
    queue(study, [{}])
    study.tell(hand_out(study, 5, lambda _: None, "tpe"), 1.0)
    assert hand_out(study, 5, lambda _: None, "tpe") is None
    assert len(counted(study.trials)) == 1


def test_the_draws_are_the_same_whichever_process_asks(tmp_path):
    def three(name: str) -> list[float]:
        study = Studies(str(tmp_path / name)).study("same name")
        values = []
        for _ in range(3):
            trial = hand_out(study, 9, lambda t: suggest(t, "x", Real(0, 1)), "tpe")
            values.append(trial.params["x"])
            study.tell(trial, trial.params["x"])
        return values

    first = three("a")
    assert first == three("b")
    assert len(set(first)) == 3


def test_the_trial_of_a_process_that_is_gone_is_handed_out_again(studies):
    study = studies.study("s")
    lost = hand_out(study, 2, lambda t: suggest(t, "x", Real(0, 1)), "random")
    gone = subprocess.run(
        [
            sys.executable,
            "-c",
            "from paceline.benchmarks.trials.environment import this_process as p; print(p())",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    lost.set_user_attr(PROCESS, gone)
    again = hand_out(study, 1, lambda t: suggest(t, "x", Real(0, 1)), "random")
    assert again.params == lost.params
    assert again.number != lost.number
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.RUNNING]
    assert [t.number for t in counted(study.trials)] == [again.number]


def test_the_running_trial_of_another_process_stays_with_it(studies):
    study = studies.study("s")
    theirs = hand_out(study, 2, lambda t: suggest(t, "x", Real(0, 1)), "random")
    theirs.set_user_attr(PROCESS, process_name(os.getppid()))
    assert hand_out(study, 1, lambda t: suggest(t, "x", Real(0, 1)), "random") is None
    assert [t.state for t in study.trials] == [TrialState.RUNNING]


# A sweep from the command line


class Checkout:
    """The command line over stores of its own."""

    def __init__(
        self, folder: Path, store: str = "", studies: str = "", text: str = BENCHMARK
    ) -> None:
        self.yaml = folder / "small.yaml"
        self.yaml.write_text(text)
        self.store = store or f"sqlite:///{folder / 'mlflow.db'}"
        self.studies = studies or str(folder / "studies.journal")
        self.client = MlflowClient(self.store)

    def start(self, *overrides: str, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        command = [*prefix, sys.executable, "-m", "benchmarks", "--store", self.store]
        command += ["sweep", str(self.yaml), "--studies", self.studies]
        return subprocess.Popen(
            [*command, f"--report={self.yaml.with_suffix('.pdf')}", *overrides],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def sweep(self, *overrides: str) -> str:
        """The output of a sweep that has run to its end."""
        process = self.start(*overrides)
        out, _ = process.communicate(timeout=170)
        assert process.returncode == 0, out
        return out

    def opened(self) -> dict[str, optuna.Study]:
        """The studies by name."""
        storage = Studies(self.studies).storage
        names = optuna.get_all_study_names(storage)
        return {name: optuna.load_study(study_name=name, storage=storage) for name in names}

    def states(self, name: str) -> list[str]:
        """How the trials ended that the study whose name holds `name` counts."""
        (study,) = (s for n, s in self.opened().items() if name in n and "retrains" not in n)
        return [trial.state.name for trial in counted(study.trials)]

    def runs(self, kind: str) -> list[Any]:
        return search(self.client, "small-sweep", paceline__kind=kind)


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What a process prints until a line holds `text`."""
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} never came:\n{read}")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A sweep that has run to its end."""
    checkout = Checkout(tmp_path_factory.mktemp("swept"))
    checkout.sweep()
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
    results = load(swept.client, "small-sweep")
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


def test_the_same_command_again_runs_nothing_and_a_larger_budget_the_rest(swept):
    before = len(swept.runs("tuning")), len(swept.runs("trial"))
    swept.sweep()
    assert (len(swept.runs("tuning")), len(swept.runs("trial"))) == before
    swept.sweep("--sweep.trials=5", "--sweep.algorithms=[sync_sgd]")
    assert len(swept.runs("tuning")) == before[0] + 1
    assert len(swept.runs("benchmark")) == 1


def test_retrains_that_mlflow_has_lost_are_made_again_though_optuna_has_them(swept, tmp_path):
    checkout = Checkout(tmp_path)
    shutil.copy(swept.studies, checkout.studies)
    only = "--sweep.algorithms=[sync_sgd]"
    out = checkout.sweep(only)
    assert "failed trials" not in out
    assert sorted(run.data.params["seed"] for run in checkout.runs("trial")) == ["100", "101"]
    assert not checkout.runs("tuning"), "what Optuna knows of them is enough"
    (removed, _) = checkout.runs("trial")
    checkout.client.delete_run(removed.info.run_id)
    checkout.sweep(only)
    made = [run.info.status for run in checkout.runs("trial")]
    assert made == ["FINISHED"] * 2
    checkout.sweep(only)
    assert len(checkout.runs("trial")) == 2


def test_optuna_shows_the_studies_on_a_page_of_this_machine(swept):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks", "dashboard", f"--port={port}"]
    page = subprocess.Popen(
        [*command, "--studies", swept.studies],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
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
    checkout = Checkout(tmp_path)
    only = "--sweep.algorithms=[sync_sgd]"
    process = checkout.start(only, "--workload.data.pause_s=0.02")
    read_until(process, "[2/4]")
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (killed,) = checkout.opened().values()
    assert [t.state.name for t in killed.trials] == ["COMPLETE", "RUNNING"]
    checkout.sweep(only, "--workload.data.pause_s=0.02")
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
    checkout = Checkout(tmp_path)
    process = checkout.start("--sweep.algorithms=[sync_sgd]", "--sweep.trials=2", *fault)
    out, _ = process.communicate(timeout=170)
    assert process.returncode == 1, out
    assert "sync_sgd, 2 workers: no trial finished, so there is nothing to retrain" in out
    assert checkout.states("sync_sgd") == ["FAIL", "FAIL"]
    sweep = read_json(checkout.client, checkout.runs("benchmark")[0].info.run_id, BENCHMARK_FILE)
    reasons = [trial["reason"] for trial in sweep["sweep"]["studies"][0]["trials"]]
    assert reasons == ["rank 1 was killed by SIGKILL"] * 2


def test_a_trial_that_diverges_is_given_up_and_the_rest_goes_on(tmp_path):
    text = BENCHMARK.replace("Tower", "Explosive")
    checkout = Checkout(tmp_path, text=text)
    checkout.sweep("--sweep.algorithms=[sync_sgd]", "--sweep.trials=4", "--sweep.pruner=none")
    (study,) = (s for n, s in checkout.opened().items() if "retrains" not in n)
    for trial in study.trials:
        diverged = trial.params["lr"] > 1
        assert trial.state == (TrialState.PRUNED if diverged else TrialState.COMPLETE)
        assert ("Diverged" in trial.user_attrs.get("reason", "")) == diverged
    assert {trial.state for trial in study.trials} == {TrialState.PRUNED, TrialState.COMPLETE}


def test_several_objectives_give_a_front_of_configurations_trained_on_every_seed(tmp_path):
    checkout = Checkout(tmp_path)
    objectives = "--sweep.objectives=[modelled_time_to_target_s,churn]"
    settings = ["--sweep.sampler=nsga2", "--sweep.tuning_seeds=[0,1]", "--sweep.seeds=[100]"]
    checkout.sweep(objectives, *settings, "--sweep.algorithms=[sync_sgd]", "--sweep.trials=3")
    (study,) = load(checkout.client, "small-sweep").benchmark["sweep"]["studies"]
    assert len(study["trials"]) == 3
    for trial in study["trials"]:
        assert len(trial["run_ids"]) == 2
        assert all(value > 0 for value in trial["values"])
    front = {t["number"]: t["values"] for t in study["trials"] if t["number"] in study["front"]}
    assert study["best"] in front
    # Over another link the seconds are others, and so is the study.
    checkout.sweep(objectives, *settings, "--sweep.algorithms=[sync_sgd]", "--sweep.trials=1", LINK)
    assert len({name for name in checkout.opened() if "retrains" not in name}) == 2
    for a, b in itertools.permutations(front.values(), 2):
        assert not (a[0] <= b[0] and a[1] <= b[1]), "one of them is beaten in both"


LINK = "--link=wan-100m-50ms"
BOWL = """
workload:
  data: {class: "tests.workload:LinearRule", rows: 1000}
  task: {class: "tests.workload:Bowl"}
  target: {loss: 1.0e-6}
  budget: {examples: 120, epochs: 1000, evaluations: 3}
algorithms:
  baseline: {workers: [1]}
  sync_sgd:
  downpour: {workers: [1]} # the staleness of several lowers the best rate
  admm: {local_steps: 1}
  model_averaging: {tau: 1}
  codistillation:
scale: {workers: [2], batch_size: 10}
sweep: {only: [lr], objectives: [final_loss], pruner: none, seeds: [100]}
"""


@pytest.mark.timeout(600)
def test_every_algorithm_finds_a_known_learning_rate_in_the_default_budget(tmp_path):
    checkout = Checkout(tmp_path, text=BOWL)
    process = checkout.start()
    out, _ = process.communicate(timeout=590)
    assert process.returncode == 0, out
    studies = load(checkout.client, "small-sweep").benchmark["sweep"]["studies"]
    assert len(studies) == 6
    for study in studies:
        trials = {trial["number"]: trial for trial in study["trials"]}
        best, shipped = trials[study["best"]], trials[0]
        assert len(trials) == 12
        assert 0.5 <= best["drawn"]["lr"] * Bowl.CURVATURE <= 2, study["algorithm"]
        assert best["values"] < shipped["values"], study["algorithm"]
