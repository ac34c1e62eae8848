"""The command line in processes of its own, over a store of its own."""

import csv
import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Self

from mlflow.tracking import MlflowClient

from paceline.reports.measures.results import FAILURE, search
from tests import ROOT

BENCHMARK = """
workload:
  data:
    class: "paceline.datasets.criteo:Criteo"
    train_rows: 4000
    validation_rows: 1000
    hash_size: 64
  task: {class: "paceline.lightning_modules.models.click_through:ClickThrough"}
  target: {loss: 0.56}
  budget: {examples: 8000, epochs: 1000, evaluations: 2}
algorithms:
  baseline: {workers: [1]}
  sync_sgd: {}
scale: {workers: [2], batch_size: 100}
"""


class Checkout:
    """The command line over a store of its own.

    Args:
        folder: of the benchmark, the store and the report.
        benchmark: the text of its YAML.
        store: the address of an MLflow store, where it is not a file in the folder.
    """

    def __init__(self, folder: Path, benchmark: str = BENCHMARK, store: str = "") -> None:
        self.folder = folder
        self.yaml = folder / "tiny.yaml"
        self.yaml.write_text(benchmark)
        self.pdf = folder / "tiny.pdf"
        self.cache = folder / "cache"
        self.uri = store or f"sqlite:///{folder / 'mlflow.db'}"

    def copy(self, folder: Path) -> Self:
        """The same benchmark over a copy of what has been run, for a test that changes it."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        copied = type(self)(folder, self.yaml.read_text())
        copied.cache = self.cache  # a trial in another cache is another trial
        with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                store.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                    (self.folder.as_uri(), folder.as_uri()),
                )
        return copied

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def start(
        self, *arguments: str, prefix: tuple[str, ...] = (), stderr: int = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        """Starts the command, in a session of its own, behind a prefix that is executed."""
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "benchmarks", *arguments],
            cwd=ROOT,
            env=os.environ | {"MLFLOW_TRACKING_URI": self.uri, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        out, err = output_of(process)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def run(self, *overrides: str) -> "subprocess.CompletedProcess[str]":
        return self.call(*self.run_command(), *overrides)

    def run_command(self) -> list[str]:
        cache = f"--workload.data.cache_dir={self.cache}"
        return ["run", str(self.yaml), f"--report={self.pdf}", cache]

    def rows(self, benchmark: str = "") -> list[dict[str, str]]:
        """The table of results, of another benchmark in the store where it is named."""
        text = self.call("results", benchmark or str(self.yaml), "--format", "csv").stdout
        return list(csv.DictReader(io.StringIO(text)))

    def trials(self, status: str) -> list[str]:
        """The names of the trial runs of that status in MLflow, with the reason where there is one."""
        runs = search(self.client, "tiny", paceline__kind="trial")
        return [
            f"{run.info.run_name}: {run.data.tags.get(FAILURE, '')}"
            for run in runs
            if run.info.status == status
        ]


def output_of(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What a process prints until it ends, at the latest with the time of its test."""
    try:
        return process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
