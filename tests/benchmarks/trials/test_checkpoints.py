"""A trial that was interrupted goes on from its checkpoint, as if nothing had happened."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.trials.checkpoints import (
    KEPT_DAYS,
    Checkpoints,
    Saving,
    remove_old,
    saving_interval,
)
from paceline.benchmarks.trials.rank import run_rank
from paceline.reports.measures.results import RECORD_FILE, read_json, search
from tests.checkout import BENCHMARK, Checkout
from tests.ranks import run_ranks
from tests.workload import trial

LONG = BENCHMARK.replace("examples: 8000", "examples: 100000").replace(
    "evaluations: 2", "evaluations: 20"
)
OFTEN = {"PACELINE_CHECKPOINT_S": "0"}

pytestmark = pytest.mark.timeout(240)


def run(checkout: Checkout) -> tuple[int, str]:
    done = checkout.call(*checkout.run_command(), "--only=sync_sgd", **OFTEN)
    return done.returncode, done.stdout + done.stderr


def kill_after_a_checkpoint(checkout: Checkout) -> Path:
    """Kills the command in the middle of its trial, and returns the checkpoint that is left."""
    process = checkout.start(*checkout.run_command(), "--only=sync_sgd", **OFTEN)
    while not (found := list((checkout.folder / "checkpoints").glob("*/step_*00"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(1.0)  # the ranks see that their parent is gone
    (left,) = (path for path in found[0].parent.iterdir() if not path.suffix)
    return left


def test_a_killed_trial_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    (whole_folder := tmp_path / "whole").mkdir()
    (cut_folder := tmp_path / "cut").mkdir()
    whole, cut = Checkout(whole_folder, LONG), Checkout(cut_folder, LONG)
    cut.cache = whole.cache
    assert run(whole)[0] == 0
    left = kill_after_a_checkpoint(cut)
    assert run(cut)[0] == 0
    (before,), (after,) = whole.rows(), cut.rows()
    for column in ("weights_sha256", "final_loss", "best_loss", "bytes_sent_per_worker"):
        assert after[column] == before[column]
    assert after["bytes_sent_per_worker"] == after["expected_bytes_per_worker"]
    finished = [
        r for r in search(cut.client, "tiny", paceline__kind="trial") if r.info.status == "FINISHED"
    ]
    (run_id,) = (r.info.run_id for r in finished)
    assert len(cut.client.get_metric_history(run_id, "validation_loss")) == 20
    record = read_json(cut.client, run_id, RECORD_FILE)["result"]
    assert record["resumed_at"] == [int(left.name.removeprefix("step_"))]
    assert not list((cut_folder / "checkpoints").iterdir())


def test_a_checkpoint_that_cannot_be_read_is_given_up(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, LONG)
    left = kill_after_a_checkpoint(checkout)
    for file in filter(Path.is_file, left.rglob("*")):
        os.truncate(file, file.stat().st_size // 2)
    status, told = run(checkout)
    assert status == 1
    assert "FAILED" in told
    assert run(checkout)[0] == 0


def saved(made: Trial, folder: str, report: Any) -> list[str]:
    """The checkpoints that there are at the end of a trial that saves after every evaluation."""
    run_rank(made, report, [Saving(Path(folder), interval=0)])
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize(
    ("algorithm", "hyper", "steps"),
    # ADMM has converged at its second evaluation and ends there.
    [("sync_sgd", {}, 30), ("admm", {"tolerance": 1e9, "local_steps": 5}, 0)],
)
def test_none_is_saved_when_training_has_ended(
    tmp_path: Path, algorithm: str, hyper: dict[str, Any], steps: int
) -> None:
    made = trial(2, 6, 40, evaluations=4, algorithm=algorithm, hyper_parameters=hyper)
    found = run_ranks(2, saved, made, str(tmp_path))[0]
    assert found == ([f"step_{steps}"] if steps else [])


@pytest.mark.parametrize("text", ["10m", "-1", "nan"])
def test_an_interval_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PACELINE_CHECKPOINT_S", text)
    with pytest.raises(ConfigError, match=f"PACELINE_CHECKPOINT_S={text} is no number of seconds"):
        saving_interval()


def test_only_whole_checkpoints_count_and_old_ones_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    folder = tmp_path / "checkpoints" / "trial"
    for name in ("step_9", "step_10", "step_11.partial"):
        (folder / name).mkdir(parents=True)
    assert Checkpoints("trial").start == folder / "step_10"
    remove_old()
    assert folder.exists()
    old = time.time() - (KEPT_DAYS + 1) * 86_400
    os.utime(folder, (old, old))
    remove_old()
    assert not folder.exists()
    assert Checkpoints("trial").start is None
