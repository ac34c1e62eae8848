"""How ranks start and end, in real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytorch_lightning import Callback, Trainer

from paceline.benchmarks.trials.rank import run_rank
from paceline.lightning_modules.backend.launch import RankFailed, Ranks
from tests import ROOT
from tests.processes import ranks_alive
from tests.ranks import run_ranks
from tests.workload import trial

pytestmark = pytest.mark.timeout(120)
Report = Callable[[str, Any], None]
HUNG = "or used its CPU for 3 s, the limit that PACELINE_HUNG_AFTER_S sets"


class Interruption:
    """Interrupts this process when it is sent to a rank."""

    def __init__(self) -> None:
        self.left = 2

    def __reduce__(self) -> Any:
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)
        return Interruption, ()


def sleep(_: Interruption, report: Report) -> None:
    time.sleep(60)


def test_no_rank_is_left_when_starting_them_is_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        Ranks(3, sleep, Interruption())
    assert not ranks_alive()


def fail_at_rank(rank: int, how: str, report: Report) -> None:
    """Trains, so that the ranks depend on one another, until `rank` fails in the way of `how`."""

    class Fail(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_rank == rank and trainer.global_step == 5:
                if how == "raise":
                    raise ArithmeticError("the sums do not add up\nsecond line")
                if how == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "exit":
                    os._exit(3)
                threading.Event().wait()

    run_rank(trial(3, steps=1000, evaluations=1), report, [Fail()])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "rank 1 raised ArithmeticError: the sums do not add up"),
        ("die", "rank 1 was killed by SIGKILL"),
        ("exit", "rank 1 exited with status 3 and no result"),
    ],
)
def test_the_rank_that_failed_first_is_named(how: str, message: str) -> None:
    with pytest.raises(RankFailed) as caught:
        run_ranks(3, fail_at_rank, 1, how)
    assert str(caught.value) == message
    assert ("in on_train_batch_start" in caught.value.details) == (how == "raise")


def test_ranks_that_hang_are_reported_after_a_silence() -> None:
    begin = time.monotonic()
    with (
        pytest.raises(RankFailed, match=HUNG),
        Ranks(3, fail_at_rank, 1, "hang") as ranks,
    ):
        list(ranks.messages(silence_s=3))
    assert 3 <= time.monotonic() - begin < 30


def work_in_silence(seconds: float, report: Report) -> str:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return "done"


def test_a_rank_that_works_in_silence_has_not_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_HUNG_AFTER_S", "2.5")
    with Ranks(1, work_in_silence, 5.0) as ranks:
        assert list(ranks.messages()) == [(0, "result", "done")]


def wait_for_a_thread_that_raises(report: Report) -> None:
    def serve() -> None:
        raise ArithmeticError("the sums of the server do not add up")

    threading.Thread(target=serve).start()
    threading.Event().wait()


def test_a_thread_that_raises_ends_its_rank_with_its_traceback() -> None:
    begin = time.monotonic()
    with pytest.raises(RankFailed) as caught:
        run_ranks(2, wait_for_a_thread_that_raises)
    assert "raised ArithmeticError: the sums of the server do not add up" in str(caught.value)
    assert "in serve" in caught.value.details
    assert time.monotonic() - begin < 30


def environment_of_rank(report: Report) -> dict[str, str]:
    return dict(os.environ)


def test_a_rank_finds_the_environment_of_torchrun() -> None:
    for rank, environment in enumerate(run_ranks(2, environment_of_rank)):
        assert environment["RANK"] == environment["LOCAL_RANK"] == str(rank)
        assert environment["WORLD_SIZE"] == "2"
        assert int(environment["MASTER_PORT"]) > 0


PARENT = """
import threading
from paceline.lightning_modules.backend.launch import Ranks

def wait(report):
    report("started", None)
    threading.Event().wait()

if __name__ == "__main__":
    with Ranks(2, wait) as ranks:
        for rank, kind, _ in ranks.messages():
            print(kind, flush=True)
"""


@pytest.mark.parametrize(
    "end", [signal.SIGKILL, signal.SIGINT], ids=["parent killed", "interrupted at the terminal"]
)
def test_no_rank_outlives_its_parent(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == ["started\n"] * 2
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) >= 3  # two ranks and their fork server
    if end is signal.SIGINT:
        os.killpg(parent.pid, end)  # as a terminal does, to everyone in the group
    else:
        parent.kill()
    assert parent.wait(20) != 0
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    parent.stdout.close()


WITHOUT_COMPILER = """
from paceline.lightning_modules.backend.launch import Ranks
from paceline.lightning_modules.backend.local_ranks import start_fork_server

if __name__ == "__main__":
    start_fork_server("tests.ranks", "tests.workload")
    from tests.ranks import Plan, train
    from tests.workload import trial
    with Ranks(2, train, trial(2, steps=4), Plan()) as ranks:
        print(sum(kind == "result" for _, kind, _ in ranks.messages(90)))
"""


def test_nothing_is_compiled(tmp_path: Path) -> None:
    script, extensions = tmp_path / "trial.py", tmp_path / "extensions"
    script.write_text(WITHOUT_COMPILER)
    extensions.mkdir()
    ended = subprocess.run(
        [sys.executable, script],
        env={
            "PATH": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "DS_ACCELERATOR": "cpu",
            "TORCH_EXTENSIONS_DIR": str(extensions),
        },
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.stdout.splitlines()[-1:] == ["2"], ended.stderr
    assert list(extensions.iterdir()) == []
