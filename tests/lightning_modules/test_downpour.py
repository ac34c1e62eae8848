"""Downpour against plain SGD, its server against what the workers sent, and a run against its replay."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from paceline.datasets.batches import BatchOrder
from paceline.lightning_modules.backend.schedule import Schedule
from paceline.lightning_modules.backend.shard import FETCH, READ, Shard, shares
from paceline.lightning_modules.backend.state import trained
from paceline.lightning_modules.downpour import Downpour
from tests.models import Spoiling, Sums
from tests.ranks import Plan, run_ranks, train
from tests.workload import FEATURES, Bowl, LinearRule, Rows, Tower, draw, trial

STEPS = 40


def results(
    workers: int, steps: int = STEPS, plan: Plan | None = None, **changes: Any
) -> list[Any]:
    """What each rank of a trial of Downpour, or of `algorithm`, returned."""
    settings: dict[str, Any] = {"algorithm": "downpour"} | changes
    return run_ranks(workers, train, trial(workers, 6, steps, **settings), plan or Plan())


def pushed(ranks: list[Any]) -> int:
    return sum(rank["algorithm"]["pushed"] for rank in ranks)


def clocks(ranks: list[Any]) -> list[int]:
    """How many pushes each shard has applied."""
    return [sum(rank["algorithm"]["staleness"].values()) for rank in ranks]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad"])
def test_one_worker_is_plain_training(optimizer: str) -> None:
    (downpour,) = results(1, optimizer=optimizer)
    (plain,) = results(1, optimizer=optimizer, algorithm="baseline")
    assert np.array_equal(downpour["weights"], plain["weights"])
    assert downpour["weights_sha256"] == plain["weights_sha256"]
    assert clocks([downpour]) == [STEPS]


def test_one_worker_that_pushes_every_third_step_accumulates() -> None:
    """By hand: local steps from the latest fetch, the sum of three gradients at the server."""
    (ran,) = results(1, hyper_parameters={"n_push": 3, "n_fetch": 6})
    (plain,) = results(1, algorithm="baseline")
    assert clocks([ran]) == [STEPS // 3]
    # A sum of gradients taken at the local weights, applied at once: plain SGD up to the fetch.
    sixes = results(1, 36, hyper_parameters={"n_push": 3, "n_fetch": 6})[0]["weights"]
    np.testing.assert_allclose(
        sixes, results(1, 36, algorithm="baseline")[0]["weights"], rtol=1e-5, atol=1e-6
    )
    assert not np.array_equal(ran["weights"], plain["weights"])


class ByHand:
    """A worker and its server in one process, with the batches of a trial."""

    def __init__(self, model: type[Tower], rank: dict[str, Any]) -> None:
        self.worker, self.server = model(FEATURES), model(FEATURES)
        for tower in (self.worker, self.server):
            vector_to_parameters(torch.tensor(rank["initial"]), tower.parameters())
        self.order = BatchOrder(100, 6, rank["order_seed"])

    def after(self, steps: int, n_push: int, n_fetch: int) -> np.ndarray:
        """The weights of the server after so many steps."""
        of_worker, of_server = (
            tower.configure_optimizer(tower.parameters()) for tower in (self.worker, self.server)
        )
        rows = draw(100, 1)
        pairs = list(zip(self.worker.parameters(), self.server.parameters(), strict=True))
        for step in range(1, steps + 1):
            chosen = self.order.batch(step - 1)
            self.worker.zero_grad()
            batch = Rows(rows.x[chosen], rows.y[chosen])
            self.worker.loss(self.worker(batch), batch.y).backward()
            for own, at_server in pairs:
                assert own.grad is not None
                pushed = own.grad.clone()
                at_server.grad = pushed if at_server.grad is None else at_server.grad + pushed
            if step % n_fetch:
                of_worker.step()
            if step % n_push == 0:
                of_server.step()
                self.server.zero_grad()
            if step % n_fetch == 0:
                self.worker.load_state_dict(self.server.state_dict())
        return parameters_to_vector(self.server.parameters()).detach().numpy()


@pytest.mark.parametrize("model", [Sums, Spoiling])
@pytest.mark.parametrize(("n_push", "n_fetch"), [(1, 2), (2, 2), (2, 3), (3, 1)])
def test_a_worker_steps_except_before_a_fetch(
    model: type[Tower], n_push: int, n_fetch: int
) -> None:
    """A step that a fetch overwrites would still change the sums of squares of Adagrad.

    What an optimizer does to its gradients does not change what is pushed.
    """
    hyper = {"n_push": n_push, "n_fetch": n_fetch}
    (rank,) = results(1, model=f"tests.models:{model.__name__}", hyper_parameters=hyper)
    assert np.array_equal(rank["evaluated"], ByHand(model, rank).after(STEPS, n_push, n_fetch))


@pytest.mark.parametrize(("n_push", "n_fetch"), [(1, 1), (2, 3), (4, 2)])
def test_a_push_and_a_fetch_of_one_step_are_one_message_each_way(n_push: int, n_fetch: int) -> None:
    ranks = results(3, hyper_parameters={"n_push": n_push, "n_fetch": n_fetch}, width=100)
    requests = replies = 0
    for rank in ranks:
        asked = range(1, rank["steps"] + 1)
        requests += sum(step % n_push == 0 or step % n_fetch == 0 for step in asked)
        replies += sum(step % n_fetch == 0 for step in asked)
    last = ranks[0]["points"][-1]
    assert 3 * last["messages_per_worker"] == pytest.approx(2 * (requests + replies))
    expected = [rank["expected_bytes_per_worker"] for rank in ranks]
    assert last["bytes_sent_per_worker"] == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.timeout(240)
def test_no_push_is_lost_under_load() -> None:
    """Four workers and two more processes that keep every core busy."""
    context = multiprocessing.get_context("fork")
    burners = [context.Process(target=burn, daemon=True) for _ in range(2)]
    for burner in burners:
        burner.start()
    try:
        ranks = results(4, 2500, lr=0.001, evaluations=4)
    finally:
        for burner in burners:
            burner.kill()
            burner.join()
    assert clocks(ranks) == [pushed(ranks)] * 4
    assert pushed(ranks) == 4 * 2500
    assert all(rank["steps"] < 5000 for rank in ranks)


def burn() -> None:
    while True:
        pass


@pytest.mark.parametrize("algorithm", ["downpour", "sync_sgd"])
def test_a_factor_of_the_learning_rate_is_another_learning_rate(algorithm: str) -> None:
    """The parameter server makes an optimizer of its own."""
    plain = trial(1, 6, 20, algorithm=algorithm, lr=0.2)
    scaled = replace(trial(1, 6, 20, algorithm=algorithm, lr=0.1), lr_factor=2.0)
    (one,), (other,) = (run_ranks(1, train, described, Plan()) for described in (plain, scaled))
    assert np.array_equal(other["weights"], one["weights"])


def test_a_task_may_have_a_factor_of_its_own() -> None:
    (plain,) = run_ranks(1, train, trial(1, 6, 20, lr=0.2), Plan())
    own = trial(1, 6, 20, model="tests.models:OwnFactor", lr=0.1)
    (scaled,) = run_ranks(1, train, own, Plan())
    assert np.array_equal(scaled["weights"], plain["weights"])


@pytest.mark.parametrize(("n_push", "n_fetch"), [(1, 1), (3, 2), (2, 5)])
def test_the_servers_clock_is_the_number_of_pushes(n_push: int, n_fetch: int) -> None:
    ranks = results(3, hyper_parameters={"n_push": n_push, "n_fetch": n_fetch})
    assert clocks(ranks) == [pushed(ranks)] * 3
    assert pushed(ranks) == sum(rank["steps"] // n_push for rank in ranks)


def test_a_replay_is_bitwise_the_recorded_run(tmp_path: Path) -> None:
    hyper = {"n_push": 2, "n_fetch": 3, "staleness_aware": True}
    recorded = results(4, hyper_parameters=hyper, dropout=0.2)
    record = tmp_path / "record.json"
    record.write_text(
        json.dumps({"result": {"ranks": [{"algorithm": r["algorithm"]} for r in recorded]}})
    )
    replayed = results(4, hyper_parameters=hyper | {"replay": str(record)}, dropout=0.2)
    for first, second in zip(recorded, replayed, strict=True):
        assert np.array_equal(second["weights"], first["weights"])
        assert second["algorithm"] == first["algorithm"]
        assert second["weights_sha256"] == first["weights_sha256"]


def test_a_resumed_run_and_a_resumed_replay_repeat_bitwise(tmp_path: Path) -> None:
    cut, resume = Plan(save_to=tmp_path / "saved"), Plan(resume_from=tmp_path / "saved")
    results(2, plan=cut)
    recorded = results(2, plan=resume)
    record = tmp_path / "record.json"
    ranks = [{"algorithm": rank["algorithm"]} for rank in recorded]
    record.write_text(json.dumps({"result": {"ranks": ranks}}))
    hyper = {"replay": str(record)}
    replayed = results(2, hyper_parameters=hyper)
    results(2, plan=replace(cut, save_to=tmp_path / "again"), hyper_parameters=hyper)
    again = Plan(resume_from=tmp_path / "again")
    resumed = results(2, plan=again, hyper_parameters=hyper)
    for first, second, third in zip(recorded, replayed, resumed, strict=True):
        assert np.array_equal(second["evaluated"], first["evaluated"])
        assert np.array_equal(third["evaluated"], first["evaluated"])
        assert third["steps"] == second["steps"] == first["steps"]


def test_what_is_no_record_cannot_be_replayed(tmp_path: Path) -> None:
    wrong = tmp_path / "record.json"
    wrong.write_text("{}")
    with pytest.raises(ValueError, match=r"record\.json is not the record of a Downpour trial"):
        Downpour(Tower(LinearRule.features), replay=str(wrong))


def test_in_the_warm_start_worker_0_is_alone() -> None:
    ranks = results(3, evaluations=1, hyper_parameters={"warm_start": 15})
    for rank in ranks:
        # Each of its 15 steps pushes and fetches in one request.
        assert rank["algorithm"]["schedule"]["served"][:15] == [0] * 15
    assert clocks(ranks) == [3 * STEPS] * 3


def test_a_warm_start_ends_at_the_first_evaluation() -> None:
    ranks = results(2, evaluations=4, hyper_parameters={"warm_start": 1000})
    assert clocks(ranks) == [2 * STEPS] * 2
    assert ranks[1]["steps"] > 0


class Two(Bowl):
    """Two numbers and a statistic; the rate is 1."""

    def __init__(self) -> None:
        super().__init__(FEATURES, lr=1.0)
        self.place = nn.Parameter(torch.zeros(2))
        self.register_buffer("statistic", torch.zeros(()))


def shard(staleness_aware: bool, workers: int = 2) -> Shard:
    def scheduled(model: Any) -> Schedule:
        return Schedule.of(model, trained(model), steps=100, epoch_steps=10)

    return Shard(Two(), [0, 1], workers, scheduled, staleness_aware=staleness_aware)


def unit(statistic: float = 0.0) -> list[torch.Tensor]:
    """A push: a gradient of ones, and what the worker holds of the statistic."""
    return [torch.ones(2), torch.tensor(statistic)]


def test_staleness_counts_the_pushes_of_others_since_the_fetch() -> None:
    server = shard(staleness_aware=False)
    for worker in (1, 2):
        server.fetch(worker, FETCH)
    for worker in (1, 1, 2):
        server.push(worker, unit())
    server.fetch(2, READ)  # to evaluate, which leaves what is trained on as it is
    server.push(2, unit())
    server.fetch(2, FETCH)
    server.push(2, unit())
    server.push(1, unit())
    assert server.staleness == {0: 3, 2: 2, 3: 1}
    assert server.clock == 6
    assert server.tensors[0].tolist() == [-6.0, -6.0]


def test_a_staleness_aware_push_is_divided_by_its_staleness() -> None:
    server = shard(staleness_aware=True)
    for worker in (1, 1, 2, 2, 3):  # of staleness 0, 0, 2, 2, 4
        server.push(worker, unit())
    assert server.tensors[0][0].item() == pytest.approx(-(1 + 1 + 1 / 2 + 1 / 2 + 1 / 4))


def test_a_worker_that_is_alone_is_never_stale() -> None:
    server = shard(staleness_aware=True, workers=1)
    for _ in range(10):
        server.push(0, unit())
    assert server.tensors[0].tolist() == [-10.0, -10.0]


def test_a_push_moves_buffers_by_the_share_of_a_worker() -> None:
    server = shard(staleness_aware=False, workers=4)
    server.push(1, unit(8.0))
    server.push(2, unit(8.0))
    assert server.tensors[1].item() == 2.0 + 1.5


def test_shards_are_whole_tensors_of_about_equal_size() -> None:
    assert shares([4, 100, 4, 60, 40], 2) == [[0, 1], [2, 3, 4]]
    assert shares([8], 3) == [[0], [], []]


def test_replicas_of_zero_1_are_refused_in_one_line() -> None:
    with pytest.raises(Exception, match="gradients can be had under ZeRO 0 alone"):
        run_ranks(2, train, replace(trial(2, 6, 4, algorithm="downpour"), zero_stage=1), Plan())
