"""The command line in processes of its own, over a store of its own."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

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

    def call(self, *arguments: str, timeout_s: float = 170) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def run(self, *overrides: str) -> "subprocess.CompletedProcess[str]":
        return self.call(*self.run_command(), *overrides)

    def run_command(self) -> list[str]:
        cache = f"--workload.data.cache_dir={self.cache}"
        return ["run", str(self.yaml), f"--report={self.pdf}", cache]

    def rows(self) -> list[dict[str, str]]:
        text = self.call("results", str(self.yaml), "--format", "csv").stdout
        return list(csv.DictReader(io.StringIO(text)))

    def trials(self, status: str) -> list[str]:
        """The names of the trial runs of that status in MLflow, with the reason where there is one."""
        runs = search(self.client, "tiny", paceline__kind="trial")
        return [
            f"{run.info.run_name}: {run.data.tags.get(FAILURE, '')}"
            for run in runs
            if run.info.status == status
        ]
