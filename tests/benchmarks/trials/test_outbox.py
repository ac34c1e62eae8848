"""What becomes of a benchmark whose MLflow server goes away: nothing is lost, doubled or out of order."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline.benchmarks.cli.main import main
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.trials import outbox as module
from paceline.benchmarks.trials.outbox import Outbox, send_what_others_left
from paceline.benchmarks.trials.runner import run
from paceline.benchmarks.trials.store import open_store
from paceline.reports.measures.results import load, search

pytestmark = pytest.mark.timeout(600)
YAML = """
workload:
  data: {class: "tests.workload:LinearRule"}
  task: {class: "tests.workload:Tower"}
  target: {loss: 0.4}
  budget: {examples: 400, epochs: 100, evaluations: 4}
algorithms: {sync_sgd: }
scale: {workers: [2], batch_size: 10}
seeds: [0, 1, 2]
"""


class Server:
    """MLflow's server on a port and in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5)
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None
                time.sleep(0.3)
            else:
                return
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "RETRY_S", 0.5)
    return tmp_path


class Recorder:
    """A display that keeps its lines and calls `on_ended` after each trial."""

    def __init__(self, on_ended: Any) -> None:
        self.notes: list[str] = []
        self.outcomes: list[str] = []
        self.on_ended = on_ended

    def note(self, text: str) -> None:
        self.notes.append(text)

    def trial(self, title: str, index: int, total: int) -> None: ...

    def progress(self, step: int, steps: int, loss: float | None) -> None: ...

    def ended(self, title: str, outcome: str) -> None:
        self.outcomes.append(outcome)
        self.on_ended(len(self.outcomes))


def test_a_server_that_is_killed_and_comes_back_costs_nothing(server: Server, home: Path) -> None:
    """It is away for the whole of the second trial, from its start to its end."""
    (home / "away.yaml").write_text(YAML)

    def on_ended(count: int) -> None:
        if count == 1:
            server.kill()
        if count == 2:
            assert list((home / "spool").rglob("*.json"))
            server.start()

    display = Recorder(on_ended)
    client = open_store(server.uri)
    outcome = run(load_benchmark(str(home / "away.yaml"), []), client, display)
    assert (outcome.ran, outcome.failed) == (3, 0)
    assert [text for text in display.notes if text.startswith("MLflow")] == [
        f"MLflow does not answer; what it lacks waits in {_only_folder(display.notes)}",
        "MLflow answers again and has been sent what it lacked",
    ]
    assert not (home / "spool").exists()
    results = load(client, "away")
    assert list(results.trials["status"]) == ["FINISHED"] * 3
    assert len(search(client, "away", paceline__kind="trial")) == 3
    assert list(results.curves.groupby("seed").size()) == [4, 4, 4]
    assert len(results.records) == len(results.predictions) == 3
    for run_id in results.trials["run_id"]:
        found = client.get_run(run_id)
        assert found.data.tags["mlflow.parentRunId"] == results.run_id
        assert found.inputs.dataset_inputs
        assert found.data.params["seed"] in "012"
        assert (found.info.end_time - found.info.start_time) < 600_000
    again = run(load_benchmark(str(home / "away.yaml"), []), client, Recorder(lambda _: None))
    assert (again.found, again.ran) == (3, 0)


def _only_folder(notes: list[str]) -> str:
    (line,) = (text for text in notes if "waits in " in text)
    return line.partition("waits in ")[2]


def test_what_a_process_left_is_sent_by_the_next_once_and_in_order(
    server: Server, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    client = open_store(server.uri)
    experiment = client.create_experiment(f"left {home.name}")
    text = f"""
from mlflow.tracking import MlflowClient
from paceline.benchmarks.trials.outbox import Outbox
outbox = Outbox(MlflowClient("{server.uri}"), print)
outbox._retry_at = 1e30  # the server is away
run_id = outbox.create_run("{experiment}", {{"mark": "a"}})
outbox.log(run_id, [("loss", 0.5, 1, 1)], {{"lr": "0.1"}}, {{"b": "c"}})
outbox.log(run_id, [("loss", 0.25, 2, 2)])
outbox.log_file(run_id, "x.txt", b"text")
outbox.end(run_id, "FINISHED")
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    assert not client.search_runs([experiment])
    # The process was killed after the server had taken the first writes.
    (folder,) = (f for f in (home / "spool").rglob("*") if f.is_dir() and list(f.glob("*.json")))
    first = Outbox(client, print, folder)
    first._send(folder / "00000001.json")
    first._send(folder / "00000002.json")
    notes: list[str] = []
    send_what_others_left(client, notes.append)
    send_what_others_left(client, notes.append)
    assert notes == ["an earlier command had left 5 writes for MLflow, which it has been sent now"]
    (made,) = client.search_runs([experiment])
    assert made.info.status == "FINISHED"
    assert made.data.tags["mark"] == "a"
    assert made.data.tags["b"] == "c"
    history = client.get_metric_history(made.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.25)]
    file = client.download_artifacts(made.info.run_id, "x.txt", str(tmp_path_factory.mktemp("x")))
    assert Path(file).read_text() == "text"
    assert not (home / "spool").exists()


def test_what_a_store_refuses_is_kept_told_and_holds_nothing_up(server: Server, home: Path) -> None:
    client = open_store(server.uri)
    experiment = client.create_experiment(f"refused {home.name}")
    notes: list[str] = []
    outbox = Outbox(client, notes.append)
    gone, there = (outbox.create_run(experiment, {}) for _ in range(2))
    outbox.log(there, params={"lr": "0.1"})
    outbox.log(there, params={"lr": "0.2"})  # a parameter cannot change
    outbox.log(f"{gone[:-4]}0000", [("loss", 0.5, 1, 1)])
    outbox.end(there, "FINISHED")
    assert client.get_run(there).info.status == "FINISHED"
    assert client.get_run(there).data.params == {"lr": "0.1"}
    assert len(notes) == 2
    for note in notes:
        assert note.startswith(f"MLflow refuses what is in {home}/spool/")
        assert Path(note.partition(" in ")[2].partition(": ")[0]).exists()


def test_ui_names_a_server_that_runs_already(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert main(["ui"]) == 0
    assert capsys.readouterr().out == (
        f"MLflow: {server.uri}  (a server that runs already; open it in a browser)\n"
    )
