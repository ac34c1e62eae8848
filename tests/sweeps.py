"""Sweeps from the command line, in processes of their own, over stores of their own."""

import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna

from paceline.benchmarks.sweeps.handing_out import counted
from paceline.benchmarks.sweeps.studies import Studies
from paceline.reports.measures.results import search
from tests import ROOT
from tests.checkout import Checkout, output_of

# By its file, as the command line does not have the checkout on its path.
WORKLOAD = ROOT / "tests" / "workload.py"
BENCHMARK = f"""
workload:
  data: {{class: "{WORKLOAD}:LinearRule", rows: 1000}}
  task: {{class: "{WORKLOAD}:Tower", lr: 0.1}}
  target: {{loss: 0.4}}
  budget: {{examples: 2000, epochs: 1000, evaluations: 4}}
algorithms:
  sync_sgd:
  model_averaging: {{tau: 5}}
scale: {{workers: [2], batch_size: 10}}
sweep:
  trials: 4
  tuning_seeds: [0]
  seeds: [100, 101]
  objectives: [final_loss]
"""


class Sweep(Checkout):
    """Sweeps of a benchmark over stores of their own.

    Args:
        studies: the address of Optuna's storage, where it is not a file in the folder.
    """

    def __init__(
        self, folder: Path, benchmark: str = BENCHMARK, store: str = "", studies: str = ""
    ) -> None:
        super().__init__(folder, benchmark, store)
        self.studies = studies or str(folder / "studies.journal")

    def begin(self, *overrides: str, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        """Starts a sweep whose output holds its errors too."""
        command = ["sweep", str(self.yaml), "--studies", self.studies, f"--report={self.pdf}"]
        return self.start(*command, *overrides, prefix=prefix, stderr=subprocess.STDOUT)

    def complete(self, *overrides: str) -> str:
        """The output of a sweep that has run to its end."""
        process = self.begin(*overrides)
        out, _ = output_of(process)
        assert process.returncode == 0, out
        return out

    def opened(self) -> dict[str, optuna.Study]:
        """The studies by name."""
        names = optuna.get_all_study_names(self.storage)
        return {name: optuna.load_study(study_name=name, storage=self.storage) for name in names}

    @cached_property
    def storage(self) -> optuna.storages.BaseStorage:
        """Optuna's, opened once: each opening takes connections to a database, which has 100."""
        return Studies(self.studies).storage

    def states(self, name: str) -> list[str]:
        """How the trials ended that the study whose name holds `name` counts."""
        (study,) = (s for n, s in self.opened().items() if name in n and "retrains" not in n)
        return [trial.state.name for trial in counted(study.trials)]

    def runs(self, kind: str) -> list[Any]:
        return search(self.client, "tiny-sweep", paceline__kind=kind)


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What a process prints until a line holds `text`."""
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} never came:\n{read}")
