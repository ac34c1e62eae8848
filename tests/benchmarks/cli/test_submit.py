"""Runs and sweeps that are submitted to SLURM."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from paceline.benchmarks.cli.main import main
from paceline.benchmarks.cli.slurm import follow
from paceline.benchmarks.sweeps.handing_out import PROCESS, counted
from paceline.reports.measures.results import TRIAL_ID, search
from tests import ROOT
from tests.checkout import BENCHMARK, Checkout
from tests.machines import machines
from tests.processes import until
from tests.slurm import Slurm, slurm
from tests.sweeps import Sweep

CLUSTER = """
slurm_nodes: 2
slurm_time: 1:30:00
slurm_partition: all
slurm_cpus_per_task: 2
slurm_additional_parameters: {comment: a b, exclusive: true}
slurm_setup: [echo set up]
array: 2
"""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of SLURM that only note that they were called, and say what the file `answer` holds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls, answer = tmp_path / "calls", tmp_path / "answer"
    for name in ("sbatch", "srun", "squeue"):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho {name} "$@" >>{calls}\n'
            f"[ {name} = sbatch ] || exec cat {answer} 2>/dev/null\n"
            "echo sbatch: error: invalid partition specified: all >&2\n"
            "echo sbatch: error: Batch job submission failed: Invalid partition >&2\nexit 1\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    calls.touch()
    return calls


def submit(folder: Path, text: str, *options: str, verb: str = "run") -> int:
    (folder / "tiny.yaml").write_text(BENCHMARK)
    (folder / "cluster.yaml").write_text(text)
    command = [verb, str(folder / "tiny.yaml"), "--submit", str(folder / "cluster.yaml")]
    return main([*command, *options])


def test_a_dry_run_shows_the_script_and_submits_nothing(called, tmp_path, capsys):
    assert submit(tmp_path, CLUSTER, "--dry-run", "--scale.workers=[1]") == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    lines = script.splitlines()
    for option in ("nodes=2", "time=1:30:00", "partition=all", "comment='a b'", "exclusive"):
        assert f"#SBATCH --{option}" in lines
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@120", "echo set up"} < set(lines)
    assert "--array" not in script, "a run is one job"
    (step,) = (line for line in lines if line.startswith("srun"))
    python = re.escape(sys.executable)
    assert re.search(rf"--nodes=2 --ntasks-per-node=1 --cpus-per-task=2 {python} -u -m", step)
    assert step.endswith(f" run {tmp_path / 'tiny.yaml'} '--scale.workers=[1]' &")
    assert submit(tmp_path, CLUSTER, "--dry-run", verb="sweep") == 0
    assert "#SBATCH --array=0-1%2" in capsys.readouterr().out
    assert "#SBATCH --time" not in (submit(tmp_path, "{}", "--dry-run"), capsys.readouterr().out)[1]
    assert called.read_text() == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("slurm_partion: a", "unknown key 'slurm_partion'; did you mean 'slurm_partition'?"),
        ("partition: a", "unknown key 'partition'; did you mean 'slurm_partition'?"),
        ("slurm_nodes: two", "slurm_nodes: 'two' is no whole number of at least 1"),
        ("array: 0", "array: '0' is no whole number of at least 1"),
        ("slurm_mem: [1]", "slurm_mem is one value, not ['1']"),
        ("slurm_setup: module load a", "slurm_setup is a list of lines of the script"),
        ("slurm_setup: [{a: b}]", "put the line {'a': 'b'} into quotes"),
        ("- a", "the settings of a cluster are a mapping"),
        ("a: [", "while parsing a flow"),
        ("slurm_partition: all", "SLURM refuses the job: sbatch: error: Batch job submission"),
    ],
)
def test_a_mistake_is_one_line(called, tmp_path, capsys, text, told):
    assert submit(tmp_path, text, verb="sweep") == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_what_is_not_there_is_told_in_one_line(called, tmp_path, capsys, monkeypatch):
    assert submit(tmp_path, "{}", "--submit", str(tmp_path / "none.yaml")) == 2
    assert "none.yaml: [Errno 2] No such file" in capsys.readouterr().err
    assert main(["run", "criteo", "--dry-run"]) == 2
    assert "--submit FILE" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert submit(tmp_path, "{}") == 2
    assert "pip install paceline[slurm]" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit(tmp_path, "{}") == 2
    assert "`sbatch` is not found" in capsys.readouterr().err
    assert "sbatch" not in called.read_text()


def test_the_end_of_the_log_of_a_failed_job_is_shown(called, tmp_path, capsys):
    (tmp_path / "answer").write_text("5_0|COMPLETED|n1\n5_1|OUT_OF_MEMORY|(OutOfMemory)\n")
    for number in ("5_0", "5_1"):
        lines = "".join(f"line {i} of {number}\n" for i in range(100))
        (tmp_path / f"{number}.log").write_text(lines)
    assert not follow("5", lambda number: tmp_path / f"{number}.log")
    said = capsys.readouterr().out
    assert "job 5_0: completed\njob 5_1: out of memory (OutOfMemory)\n    line 80 of 5_1\n" in said
    assert "line 79" not in said
    assert "of 5_0" not in said


@pytest.fixture
def cluster() -> Iterator[Slurm]:
    with machines(3) as made, slurm(made) as started:
        yield started


class Submitted:
    """A command that submits itself and follows its jobs, whose output is a file."""

    def __init__(self, cluster: Slurm, checkout: Checkout, settings: str, *command: str) -> None:
        self.cluster, self.folder = cluster, checkout.folder
        self.out = self.folder / "submitted.log"
        file = self.folder / "cluster.yaml"
        file.write_text(settings)
        self.command = [sys.executable, "-m", "benchmarks", *command, "--submit", str(file)]
        own = {"PACELINE_HOME": str(self.folder), "MLFLOW_TRACKING_URI": checkout.uri}
        self.environment = {**os.environ, **own, "PYTHONUNBUFFERED": "1"}
        self.process = self.follow()

    def follow(self) -> "subprocess.Popen[Any]":
        with self.out.open("a") as out:
            return self.cluster.popen(
                self.command, self.environment, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
            )

    def wait_for(self, text: str, log: str = "") -> None:
        """Waits for a text in the output of the command, or in the log of a job."""
        file = self.folder / "slurm" / f"{log}_0_log.out" if log else self.out
        try:
            until(lambda: file.exists() and re.search(text, file.read_text()) is not None, 90)
        except AssertionError as error:
            error.add_note(self.said())
            raise

    def said(self) -> str:
        logs = (self.out, *sorted(self.folder.glob("slurm/*.out")))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in logs)

    def finish(self) -> str:
        """What the command has said when its jobs have ended and left nothing."""
        assert self.process.wait(200) == 0, self.said()
        slurmd = [1] * len(self.cluster.nodes)
        processes = self.cluster.machines.processes
        until(lambda: [len(processes(node)) for node in self.cluster.nodes] == slurmd)
        return self.out.read_text()


@pytest.mark.timeout(400)
def test_a_run_that_is_requeued_in_mid_trial_goes_on(cluster, tmp_path):
    longer = BENCHMARK.replace("examples: 8000", "examples: 60000") + "seeds: [0, 1]\n"
    checkout = Checkout(tmp_path, longer.replace("scale: {", "scale: {workers_per_node: 1, "))
    job = Submitted(cluster, checkout, "slurm_nodes: 2", *checkout.run_command())
    job.wait_for(r"job \d+: running on n\[1-2\]")
    number = re.search(r"job (\d+): running", job.out.read_text())[1]
    job.process.send_signal(signal.SIGINT)
    assert job.process.wait(30) == 130
    assert f"job {number} goes on. To end it: scancel {number}." in job.out.read_text()
    job.process = job.follow()
    job.wait_for(r"\[2/4\]", log=number)
    before = {r.info.run_id for r in trials(checkout) if r.info.status == "FINISHED"}
    assert cluster.run(["scontrol", "requeue", number]).returncode == 0
    said = job.finish()
    assert f"job {number} runs this command already; following it" in said
    assert re.search(r"running on.*requeued.*running on.*completed", said, re.DOTALL)
    finished = [r for r in trials(checkout) if r.info.status == "FINISHED"]
    assert len(before) == 1
    assert before < {r.info.run_id for r in finished}
    assert len({r.data.tags[TRIAL_ID] for r in finished}) == len(finished) == 4
    assert "interrupted" in checkout.trials("KILLED")[0]  # in time, or found so afterwards
    assert checkout.pdf.is_file()


def trials(checkout: Checkout) -> list[Any]:
    return search(checkout.client, "tiny", paceline__kind="trial")


@pytest.mark.timeout(400)
def test_the_jobs_of_an_array_share_the_trials_of_a_sweep_and_outlive_the_time_limit(
    cluster, tmp_path
):
    checkout = Sweep(tmp_path)
    fields = ["--sweep.algorithms=[sync_sgd]", "--workload.data.pause_s=0.02"]
    command = ["sweep", str(checkout.yaml), f"--report={checkout.pdf}", *fields]
    settings = "array: 2\nslurm_exclusive: true"
    job = Submitted(cluster, checkout, settings, *command, "--sweep.trials=6")
    job.wait_for(r"job \d+_1: running on n\d")
    number = re.search(r"job (\d+)_1: running", job.out.read_text())[1]
    job.wait_for(r"\[\d/6\]", log=f"{number}_1")
    # What SLURM sends some time before the time limit.
    sent = cluster.run(["scancel", "--batch", "--signal=USR1", f"{number}_1"])
    assert sent.returncode == 0, sent.stderr
    said = job.finish()
    assert f"{number}_0: requeued" not in said
    assert re.search(rf"{number}_1: requeued.*{number}_1: running.*{number}_1: compl", said, re.S)
    (study,) = (s for n, s in checkout.opened().items() if "retrains" not in n)
    finished = [t for t in counted(study.trials) if t.state == TrialState.COMPLETE]
    assert len(finished) == len(counted(study.trials)) == 6
    drawn = {str(sorted(trial.params.items())) for trial in finished}
    assert len(drawn) == 6
    assert {t.user_attrs[PROCESS].split()[0] for t in study.trials} == {"n1", "n2"}
    assert [run.info.status for run in checkout.runs("trial")] == ["FINISHED"] * 2
