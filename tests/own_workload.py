"""The example of the documentation, which the tests of a person's own model change."""

from paceline.benchmarks.spec.benchmark import Benchmark
from paceline.benchmarks.spec.reading import load_workload
from tests import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "my_model.py"
TEXT = EXAMPLE.read_text()
SMALL = ["--workload.data.rows=200", "--workload.budget.examples=640", "--scale.batch_size=8"]


def load(task: str, *overrides: str) -> Benchmark:
    return load_workload(task, list(overrides))
