"""The backend in real processes: replicas, meters, and how ranks start and end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.distributed
from pytorch_lightning import Callback, Trainer

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.trials.rank import run_rank
from paceline.datasets.batches import BatchOrder
from paceline.lightning_modules.backend.algorithm import Algorithm
from paceline.lightning_modules.backend.clock import Clock
from paceline.lightning_modules.backend.launch import RankFailed, Ranks
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.ledger import Ledger, wire_bytes
from paceline.lightning_modules.sync_sgd import SyncSGD
from tests import ROOT
from tests.processes import ranks_alive
from tests.workload import LinearRule, Plan, Tower, optimizer_of, run_ranks, train, trial

pytestmark = pytest.mark.timeout(120)
Report = Callable[[str, Any], None]


# Replicas


class IndependentReplicas(SyncSGD):
    """Replicas that never exchange anything."""

    def __init__(self, task: Any, replicas: int = 1) -> None:
        super().__init__(task)

    @classmethod
    def layout(cls, workers: int, **hyper_parameters: Any) -> Layout:
        replicas = hyper_parameters["replicas"]
        return Layout(replicas, workers // replicas)


@dataclass(frozen=True)
class ReplicaTrial(Trial):
    @property
    def algorithm_class(self) -> type[Algorithm]:
        return IndependentReplicas


def of_replicas(replicas: int, ranks: int, **changes: Any) -> ReplicaTrial:
    plain = trial(replicas * ranks, 4, 20, **changes)
    return ReplicaTrial(**{**vars(plain), "hyper_parameters": {"replicas": replicas}})


def trained_alone(figures: dict[str, Any], workers: int, ranks: list[int]) -> np.ndarray:
    """The weights after 20 steps of plain SGD on what `ranks` of `workers` see, 4 examples each."""
    tower = Tower(LinearRule.features)
    torch.nn.utils.vector_to_parameters(torch.tensor(figures["initial"]), tower.parameters())
    optimizer = optimizer_of("sgd", tower.parameters(), 0.1)
    dataset = LinearRule().training()
    order = BatchOrder(len(dataset), 4 * workers, figures["order_seed"])
    part = slice(4 * ranks[0], 4 * (ranks[-1] + 1))
    for step in range(20):
        batch = dataset.__getitems__(order.batch(step)[part])
        optimizer.zero_grad()
        tower.loss(tower(batch), batch.y).backward()
        optimizer.step()
    return torch.nn.utils.parameters_to_vector(tower.parameters()).detach().numpy()


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
@pytest.mark.parametrize(("replicas", "ranks"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_gradients_are_averaged_inside_a_replica_and_nowhere_else(
    replicas: int, ranks: int, zero_stage: int
) -> None:
    figures = run_ranks(
        replicas * ranks, train, of_replicas(replicas, ranks, zero_stage=zero_stage), Plan()
    )
    layout = Layout(replicas, ranks)
    for replica in range(replicas):
        members = layout.members(replica)
        expected = trained_alone(figures[0], layout.world_size, members)
        for rank in members:
            np.testing.assert_allclose(figures[rank]["weights"], expected, rtol=1e-5, atol=1e-6)
            assert np.array_equal(figures[rank]["weights"], figures[members[0]]["weights"])
    assert len({rank["weights_sha256"] for rank in figures}) == replicas


@pytest.mark.parametrize(("replicas", "ranks", "zero_stage"), [(4, 1, 0), (2, 2, 1), (2, 2, 3)])
def test_a_checkpoint_keeps_every_replica(
    tmp_path: Path, replicas: int, ranks: int, zero_stage: int
) -> None:
    whole = of_replicas(replicas, ranks, zero_stage=zero_stage, optimizer="momentum")
    workers = replicas * ranks
    saved = run_ranks(workers, train, whole, Plan(save_to=tmp_path, save_at=10))
    resumed = run_ranks(workers, train, whole, Plan(resume_from=tmp_path))
    uninterrupted = run_ranks(workers, train, whole, Plan())
    assert len({rank["weights_sha256"] for rank in saved}) == replicas
    for rank in range(workers):
        assert np.array_equal(resumed[rank]["initial"], saved[rank]["weights"])
        assert np.array_equal(resumed[rank]["weights"], uninterrupted[rank]["weights"])


class CountCollectives(Callback):
    """Counts the collectives of several ranks in training, whether the ledger sees them or not."""

    def __init__(self) -> None:
        self.calls = 0

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        for name in ("broadcast", "all_reduce", "barrier"):
            self._count(name, trainer)

    def _count(self, name: str, trainer: Trainer) -> None:
        collective = getattr(torch.distributed, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with_others = torch.distributed.get_world_size(kwargs.get("group")) > 1
            self.calls += trainer.training and with_others
            return collective(*args, **kwargs)

        setattr(torch.distributed, name, counted)


def count_collectives(trial: Trial, report: Report) -> int:
    count = CountCollectives()
    run_rank(trial, report, [count])
    return count.calls


def refusal(trial: Trial, report: Report) -> str:
    with pytest.raises(ValueError, match="does not fit") as refused:
        run_rank(trial, report)
    return str(refused.value)


def test_replicas_are_not_kept_in_step_by_a_collective_that_nobody_asked_for() -> None:
    apart = run_ranks(2, count_collectives, of_replicas(2, 1, evaluations=1))
    joined = run_ranks(2, count_collectives, of_replicas(1, 2, evaluations=1))
    steps = 20
    assert max(apart) < steps / 2  # what stands at the beginning and end of training
    assert min(joined) >= steps


@pytest.mark.parametrize(("replicas", "ranks"), [(2, 1), (2, 2)])
def test_a_layout_that_does_not_fit_the_world_is_refused_by_every_rank(
    replicas: int, ranks: int
) -> None:
    message = f"{replicas} replicas x {ranks} ranks does not fit a world of 3"
    assert run_ranks(3, refusal, of_replicas(replicas, ranks)) == [f"the layout of {message}"] * 3


# Ledger


@pytest.mark.parametrize(
    ("operation", "size", "expected"),
    [
        # Of 1200 bytes on each of 4 ranks, the mean over the ranks.
        ("all_reduce", 4, 1800),  # 2 * 3/4
        ("all_reduce", 2, 1200),
        ("all_gather_into_tensor", 4, 3600),  # a rank's part goes to 3 others
        ("broadcast", 4, 900),  # 3 * 1200 over 4 ranks
        ("gather", 4, 900),
        ("reduce", 4, 1125),  # reduce-scatter 900, gather of quarters 3 * 300 / 4
        ("reduce_scatter_tensor", 4, 1800),  # gloo: an all-reduce
        ("all_to_all_single", 4, 900),
        ("send", 4, 1200),
        ("all_reduce", 1, 0),
    ],
)
def test_wire_bytes_by_hand(operation: str, size: int, expected: float) -> None:
    assert wire_bytes(operation, 1200, size) == expected


def test_nccl_reduce_scatters_at_the_lower_bound() -> None:
    assert wire_bytes("reduce_scatter_tensor", 1200, 4, "nccl") == 900
    assert wire_bytes("reduce", 1200, 4, "nccl") == 900


def test_evaluation_setup_and_checkpoints_are_booked_apart(tmp_path: Path) -> None:
    # Above 10^5 elements ZeRO 3 gathers a layer anew for an evaluation.
    wide = trial(2, 2, 6, zero_stage=3, width=20_000)
    figures = run_ranks(2, train, wide, Plan(save_to=tmp_path, save_at=4))
    phases = {row["phase"] for row in figures[0]["ledger"] if row["wire_bytes"]}
    assert phases >= {"setup", "train", "evaluation"}
    counted = sum(r["wire_bytes"] for r in figures[0]["ledger"] if r["phase"] == "train")
    assert figures[0]["points"][-1]["bytes_sent_per_worker"] == counted


class InstantBackend:
    """Stands for DeepSpeed's communication backend and sends nothing."""

    def nothing(self, *args: Any, **kwargs: Any) -> None: ...

    all_reduce = inference_all_reduce = all_reduce_coalesced = broadcast = reduce = nothing
    all_gather = all_gather_into_tensor = all_gather_coalesced = gather = scatter = nothing
    reduce_scatter = reduce_scatter_tensor = all_to_all_single = all_to_all = nothing
    send = isend = nothing


@pytest.fixture
def group_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda group: "gloo")


@pytest.mark.usefixtures("group_of_two")
def test_no_message_is_lost_when_two_threads_send() -> None:
    ledger, backend, tensor = Ledger(), InstantBackend(), torch.zeros(25)
    ledger.attach(backend)

    def send() -> None:
        for _ in range(5000):
            backend.send(tensor, 1)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert ledger.sent("setup") == (10_000, 1_000_000)


@pytest.mark.usefixtures("group_of_two")
def test_only_the_ledger_attached_last_counts() -> None:
    first, second, backend = Ledger(), Ledger(), InstantBackend()
    for ledger in (first, second, second):
        ledger.attach(backend)
    backend.send(torch.zeros(25), 1)
    assert first.sent("setup") == (0, 0)
    assert second.sent("setup") == (1, 100)


# Clock


def test_the_clock_splits_time_into_phases_and_stands_while_stopped() -> None:
    clock = Clock(torch.device("cpu"))
    clock.enter("data")
    time.sleep(0.05)
    clock.enter("train")
    time.sleep(0.1)
    clock.stop()
    stopped = dict(clock.seconds)
    time.sleep(0.05)
    clock.enter("data")
    clock.stop()
    assert stopped["data"] >= 0.05
    assert stopped["train"] >= 0.1
    assert clock.total == pytest.approx(sum(stopped.values()), abs=0.03)


def test_a_clock_that_stands_is_stopped_again_without_counting() -> None:
    clock = Clock(torch.device("cpu"))
    clock.enter("train")
    clock.stop()
    stopped = (clock.total, clock.cpu_seconds)
    sum(range(3_000_000))
    clock.stop()
    assert (clock.total, clock.cpu_seconds) == stopped


def test_evaluation_is_not_on_the_clock() -> None:
    begin = time.perf_counter()
    figures = run_ranks(2, train, trial(2, steps=4, evaluations=2, evaluation_pause_s=2.0), Plan())
    assert time.perf_counter() - begin > 4.0
    assert figures[0]["points"][-1]["train_seconds"] < 2.0


def test_waiting_for_data_is_booked_under_data() -> None:
    phases = run_ranks(2, train, trial(2, steps=10, data={"pause_s": 0.1}), Plan())[0]["phases"]
    assert phases["data"] >= 0.9  # the first batch is read before training starts
    assert phases["train"] < phases["data"]


# Launch


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
from paceline.lightning_modules.backend.launch import Ranks, start_fork_server

if __name__ == "__main__":
    start_fork_server("tests.workload")
    from tests.workload import Plan, train, trial
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
