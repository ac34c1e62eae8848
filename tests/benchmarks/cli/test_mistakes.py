"""Whatever is wrong with a command or its surroundings is one line, before anything starts."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from paceline.benchmarks.cli.main import main
from paceline.benchmarks.trials.addresses import masked
from paceline.benchmarks.trials.environment import hardware
from paceline.benchmarks.trials.rerun import CannotRerun, rerun
from paceline.benchmarks.trials.store import open_store
from paceline.benchmarks.trials.tracking import BenchmarkRun
from paceline.reports.measures.results import KIND
from tests import ROOT
from tests.report_store import ENVIRONMENT, SYNTHETIC, benchmark, fill
from tests.workload import Tower

YAML = """
workload:
  data: {class: "tests.workload:LinearRule"}
  task: {class: "tests.workload:Tower"}
  target: {loss: 0.4}
  budget: {examples: 40, evaluations: 1}
algorithms: {sync_sgd: }
scale: {workers: [2], batch_size: 10}
sweep: {objectives: [final_loss], trials: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, where a benchmark `small.yaml` is and everything goes."""
    (tmp_path / "small.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "PACELINE_HOME", "PACELINE_STUDIES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def told(folder: Path, capsys: pytest.CaptureFixture[str]):
    """Runs a command that is a mistake and gives its one line."""

    def tell(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        err = capsys.readouterr().err
        # What MLflow says of a new file, here where it was imported before the command could hush it.
        (line,) = (line for line in err.splitlines() if "INFO mlflow.store" not in line)
        assert line.startswith("error: ")
        assert runs() == 0
        return line.removeprefix("error: ")

    def runs() -> int:
        if not (folder / "mlflow.db").exists():
            return 0
        client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        every = [e.experiment_id for e in client.search_experiments(ViewType.ALL)]
        return len(client.search_runs(every))

    return tell


# Where a report goes


def test_a_report_that_is_a_folder_or_has_no_suffix(told, folder: Path) -> None:
    (folder / "out").mkdir()
    assert told("run", "small.yaml", "--report=out") == (
        "--report=out is a folder; write --report=out/small.pdf"
    )
    assert told("sweep", "small.yaml", "--report=out/") == (
        "--report=out/ is a folder; write --report=out/small-sweep.pdf"
    )
    assert told("run", "small.yaml", "--report=there") == (
        "--report=there does not end in .pdf; write --report=there.pdf"
    )
    assert told("report", "small", "--report=there.svg") == (
        "--report=there.svg does not end in .pdf; write --report=there.svg.pdf"
    )
    (folder / "file").touch()
    assert "'file'" in told("run", "small.yaml", "--report=file/x.pdf")
    assert not (folder / "there").exists()


def test_a_name_that_leads_out_of_a_folder(told, folder: Path) -> None:
    assert "name: '../x' cannot name a file" in told("run", "small.yaml", "--name=../x")
    assert not (folder.parent / "x.pdf").exists()


# A path that YAML would read as something else


@pytest.mark.parametrize("path", ["null", "2024", "no", "1e3", "[a]"])
def test_data_are_a_path_whatever_yaml_takes_it_for(told, path: str) -> None:
    message = told("run", "criteo", "--data", path)
    assert message.startswith(f"cannot read {path}: No such file or directory")


# What this machine has not


def test_more_workers_than_memory(told) -> None:
    message = told("run", "small.yaml", "--scale.workers=[2,1000000]")
    assert message.startswith("1000000 workers do not fit into the ")
    assert " GiB of memory here; set workers to at most " in message
    assert "1000000 workers" in told("sweep", "small.yaml", "--sweep.workers=[1000000]")


@pytest.mark.skipif(bool(hardware()["gpus"]), reason="this machine has a GPU")
def test_a_gpu_where_there_is_none(told) -> None:
    assert told("run", "small.yaml", "--scale.accelerator=gpu") == (
        "scale.accelerator is gpu, and torch sees no GPU here; set scale.accelerator to cpu"
    )


def test_more_workers_than_gpus_on_several_nodes(told, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = hardware() | {"gpus": ["a GPU"]}
    monkeypatch.setattr("paceline.benchmarks.trials.room.hardware", lambda: facts)
    monkeypatch.setattr("paceline.benchmarks.spec.settings.Scale.nodes_of", lambda *_: 2)
    assert told("run", "small.yaml", "--scale.workers=[4]") == (
        "2 workers on a node take a GPU each, and there are 1 here; set scale.workers to at most 2, or"
        " scale.nodes to 1, where workers may share a GPU"
    )


@pytest.mark.parametrize("value", ["ib0", "lo,ib0"])
def test_an_interface_that_is_not_there(told, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", value)
    message = told("run", "small.yaml")
    assert message.startswith("GLOO_SOCKET_IFNAME names the interface ib0, and this machine has lo")
    assert message.endswith("; unset the variable or name one of them")


# Stores


def nobody() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    "command", [("run", "small.yaml"), ("results", "x"), ("ui",), ("report", "x")]
)
def test_a_server_that_was_never_there_is_told_at_once(
    told, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    uri = f"http://u:s3cret@127.0.0.1:{nobody()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    message = told(*command)
    assert time.monotonic() - began < 10
    assert message.endswith(
        "no server answers there; start it, or correct MLFLOW_TRACKING_URI or --store"
    )
    assert "s3cret" not in message
    assert "u:***@127.0.0.1" in message
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("command", [("run", "small.yaml"), ("results", "x"), ("ui",)])
def test_a_password_is_in_no_message(
    told, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], capsys
) -> None:
    uri = f"postgresql://u:s3cret@127.0.0.1:{nobody()}/x?password=s3cret"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    message = told(*command)
    assert time.monotonic() - began < 10
    assert message.startswith("MLflow cannot open the store postgresql://u:***@127.0.0.1:")
    assert "s3cret" not in message
    assert "s3cret" not in capsys.readouterr().out


def test_a_password_of_the_studies_is_in_no_message(told) -> None:
    uri = f"postgresql://u:s3cret@127.0.0.1:{nobody()}/x"
    message = told("sweep", "small.yaml", f"--studies={uri}")
    assert message.startswith("the studies in postgresql://u:***@127.0.0.1:")
    assert "s3cret" not in message
    assert "mysql://u:***@h/x" in told("sweep", "small.yaml", "--studies=mysql://u:s3cret@h/x")


def test_doctor_shows_no_password(folder: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://u:s3cret@127.0.0.1:{nobody()}/x")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr()
    assert "s3cret" not in shown.out + shown.err
    assert "u:***@127.0.0.1" in shown.out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://127.0.0.1:5000/x", "http://127.0.0.1:5000/x"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("see postgresql://u:p@h:5/d, or", "see postgresql://u:***@h:5/d, or"),
        ("postgresql+psycopg://u:a:b/c@h/d", "postgresql+psycopg://u:***@h/d"),
        ("postgresql://:p@h/d", "postgresql://:***@h/d"),
        ("postgresql://h/d?user=u&password=p&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("host=h password=p dbname=d", "host=h password=*** dbname=d"),
        ("https://u:p@h/a and https://v:q@i/b", "https://u:***@h/a and https://v:***@i/b"),
    ],
)
def test_addresses_are_shown_without_their_passwords(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_a_reason_that_is_recorded_holds_no_password(folder: Path) -> None:
    client = open_store(f"sqlite:///{folder / 'mlflow.db'}")
    plan = benchmark("b", {"sync_sgd": [2]}, [0])
    results = fill(client, plan, lambda _: [0.9], failures={2: "no postgresql://u:s3cret@h/d"})
    assert list(results.trials["failure"]) == ["no postgresql://u:***@h/d"]


def test_an_experiment_that_was_deleted_in_mlflow(told, folder: Path) -> None:
    client = open_store(f"sqlite:///{folder / 'mlflow.db'}")
    number = client.create_experiment("small")
    client.delete_experiment(number)
    assert told("run", "small.yaml") == (
        "the experiment 'small' has been deleted in MLflow; bring it back with `mlflow experiments"
        f" restore --experiment-id {number}`, or give another --name"
    )
    sweep = client.create_experiment("small-sweep")
    client.delete_experiment(sweep)
    assert f"restore --experiment-id {sweep}`" in told("sweep", "small.yaml")


def test_somebody_elses_run_in_the_experiment_is_left_alone(folder: Path) -> None:
    client = open_store(f"sqlite:///{folder / 'mlflow.db'}")
    plan = benchmark("b", {"sync_sgd": [2]}, [0])
    experiment = client.create_experiment("b")
    foreign = [client.create_run(experiment, tags=tags).info.run_id for tags in ({}, {"a": "b"})]
    results = fill(client, plan, lambda _: [0.4])
    assert list(results.trials["status"]) == ["FINISHED"]
    BenchmarkRun(client, "b", plan.identity(), {"data": SYNTHETIC, "environment": ENVIRONMENT})
    assert [client.get_run(run_id).info.status for run_id in foreign] == ["RUNNING"] * 2


# Runs by the beginning of their ids


def test_the_beginning_of_an_id_that_several_trials_have_is_refused_with_their_ids(
    folder: Path,
) -> None:
    client = open_store(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.create_experiment("b")
    ids = [client.create_run(experiment, tags={KIND: "trial"}).info.run_id for _ in range(17)]
    digit = next(i[0] for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    with pytest.raises(CannotRerun, match=rf"\d trials have ids that begin with {digit}: {digit}"):
        rerun(client, digit, None)
    whole = min(ids)
    with pytest.raises(CannotRerun, match=f"run '{whole}' is no trial that has finished"):
        rerun(client, whole[:31], None)
    with pytest.raises(CannotRerun, match="no run 'ffff0000ffff' in this store"):
        rerun(client, "ffff0000ffff", None)
    with pytest.raises(CannotRerun, match="'it%' is no run's id; `results` shows them"):
        rerun(client, "it%", None)


# Terminals


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_a_character_shows_another(folder: Path, encoding: str) -> None:
    client = open_store(f"sqlite:///{folder / 'mlflow.db'}")
    fill(client, benchmark("平均", {"sync_sgd": [2]}, [0]), lambda _: [0.9])  # misses its target
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PACELINE_HOME": str(folder)}
    for command in (["results", "平均"], ["report", "平均", f"--report={folder / 'r.pdf'}"]):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            timeout=170,
        )
        assert done.returncode == 0, done.stderr
    assert (folder / "r.pdf").read_bytes().startswith(b"%PDF")


# Sweeps


def test_a_sweep_says_that_a_task_states_nothing_to_tune(
    told, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = "--sweep.workers=[1000000]"  # so that it ends there
    assert main(["sweep", "small.yaml", many]) == 2
    assert "search_space" not in capsys.readouterr().out
    monkeypatch.setattr(Tower, "search_space", {})
    assert main(["sweep", "small.yaml", many]) == 2
    assert capsys.readouterr().out.startswith(
        "tests.workload:Tower states no search_space: its own settings, such as the learning rate, stay"
    )
