"""Fewer rows than workers: one line before anything starts."""

from pathlib import Path

import pytest

from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.spec.suitable import prepared
from tests.criteo import GOOD

BENCHMARK = """
workload:
  data:
    class: paceline.datasets.criteo:Criteo
    path: PATH
    validation_fraction: FRACTION
    cache_dir: CACHE
  task: {class: "paceline.lightning_modules.models.click_through:ClickThrough"}
  target: {loss: 0.6}
  budget: {examples: 20000}
algorithms: {sync_sgd: , independent: {workers: [2]}}
scale: {workers: [1, 2, 4]}
"""


@pytest.mark.parametrize(
    ("rows", "fraction", "told"),
    [
        (10, 0.1, "val_dataloader() has 1 examples, fewer than the 4 workers of sync_sgd"),
        (10, 0.7, "train_dataloader() has 3 examples, fewer than the 4 workers of sync_sgd"),
        (10, 0.5, None),
        (8, 0.5, None),
    ],
)
def test_every_worker_has_to_have_a_row(
    tmp_path: Path, rows: int, fraction: float, told: str | None
) -> None:
    (tmp_path / "small.txt").write_bytes(GOOD * rows)
    text = BENCHMARK.replace("PATH", str(tmp_path / "small.txt"))
    text = text.replace("CACHE", str(tmp_path / "cache")).replace("FRACTION", str(fraction))
    (tmp_path / "small.yaml").write_text(text)
    trials = load_benchmark(str(tmp_path / "small.yaml"), []).trials()
    if told is None:
        prepared(trials)
        return
    with pytest.raises(ConfigError) as raised:
        prepared(trials)
    assert str(raised.value) == (
        f"paceline.datasets.criteo:Criteo: {told}, 4 workers, seed 0;"
        " give more rows or set --scale.workers"
    )
