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
# What the script that `pip` makes of `project.scripts` does.
CONSOLE_SCRIPT = "import sys; from paceline.benchmarks.cli.main import main; sys.exit(main())"


class Checkout:
    """The command line over a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.yaml = folder / "tiny.yaml"
        self.yaml.write_text(BENCHMARK)
        self.pdf = folder / "tiny.pdf"
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"

    def start(
        self, *arguments: str, installed: bool = False, **environment: str
    ) -> "subprocess.Popen[str]":
        """Starts a command, of the checkout or as the console script does from another folder."""
        command = ["-c", CONSOLE_SCRIPT] if installed else ["-m", "benchmarks"]
        return subprocess.Popen(
            [sys.executable, *command, *arguments],
            cwd=self.folder if installed else ROOT,
            env=os.environ
            | {"MLFLOW_TRACKING_URI": self.uri, "PYTHONUNBUFFERED": "1"}
            | {"PACELINE_HOME": str(self.folder)}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(
        self, *arguments: str, installed: bool = False, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments, installed=installed, **environment)
        out, err = process.communicate(timeout=170)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def run(
        self, *overrides: str, installed: bool = False, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        command = [*self.run_command(), *overrides]
        return self.call(*command, installed=installed, **environment)

    def run_command(self) -> list[str]:
        cache = f"--workload.data.cache_dir={self.folder / 'cache'}"
        of_shipped = [cache] if "Criteo" in self.yaml.read_text() else []
        return ["run", str(self.yaml), f"--report={self.pdf}", *of_shipped]

    def rows(self) -> list[dict[str, str]]:
        text = self.call("results", str(self.yaml), "--format", "csv").stdout
        return list(csv.DictReader(io.StringIO(text)))

    def trials(self, status: str, name: str = "tiny") -> list[str]:
        """The names of the trial runs of that status in MLflow, with the reason where there is one."""
        runs = search(MlflowClient(self.uri), name, paceline__kind="trial")
        return [
            f"{run.info.run_name}: {run.data.tags.get(FAILURE, '')}"
            for run in runs
            if run.info.status == status
        ]
