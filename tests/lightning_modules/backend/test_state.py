"""The state of a model: what of it is exchanged, evaluated and counted, and in which dtype."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from paceline.datasets.batches import BatchOrder
from paceline.datasets.partition import Partition
from paceline.lightning_modules.backend.launch import RankFailed
from paceline.lightning_modules.backend.state import State, groups, pack, tensors, trained, unpack
from tests.models import Exact, Normalised
from tests.ranks import Plan, relative_distance, run_ranks, train
from tests.workload import VALIDATION_ROWS, LinearRule, Tower, draw, trial

STEPS = 40


def results(workers: int, algorithm: str, model: str, **changes: Any) -> list[Any]:
    """What each rank of a trial of one of `tests.models` returned."""
    described = trial(
        workers, 6, STEPS, algorithm=algorithm, model=f"tests.models:{model}", **changes
    )
    return run_ranks(workers, train, described, Plan())


class Everything(nn.Module):
    """A tensor of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("exact", torch.zeros(2, 2, dtype=torch.float64))
        self.register_buffer("mask", torch.ones(5), persistent=False)


def test_the_tensors_of_a_model_by_kind() -> None:
    kinds = {key: len(found) for key, found in groups(Everything()).items()}
    assert kinds == {
        ("weights", torch.float32): 3,
        ("frozen", torch.float32): 1,
        ("buffers", torch.float64): 1,
        ("buffers", torch.float32): 2,
        ("counters", torch.int64): 1,
    }


def test_a_state_is_added_and_scaled_like_a_vector_and_put_back() -> None:
    model, other = Everything(), Everything()
    state = State.of(groups(model, "weights", "buffers"))
    ones = state.map(torch.ones_like)
    assert (state.weights.norm()) == pytest.approx((3.0**2 + 2) ** 0.5)
    (state + 2.0 * ones - ones).copy_to(other)
    assert other.scale.item() == 4.0
    assert other.norm.running_mean is not None
    assert other.norm.running_mean.tolist() == [1.0, 1.0]
    assert other.frozen.tolist() == [1.0, 1.0]
    assert model.scale.item() == 3.0
    assert state.weights.nbytes == 5 * 4


def test_the_norm_of_many_small_numbers_is_not_lost_in_rounding() -> None:
    """A sum of as many squares in float32 is 0.6 % too small."""
    many = State({("weights", torch.float32): torch.rand(10**8)}, {})
    exact = many.parts["weights", torch.float32].double().norm().item()
    assert many.norm() == pytest.approx(exact, rel=1e-6)
    short = many.map(lambda part: part[:1000].bfloat16())
    exact = short.parts["weights", torch.float32].double().norm().item()
    assert short.norm() == pytest.approx(exact, rel=1e-6)


def test_trained_parameters_of_several_dtypes_are_in_the_order_of_their_tensors() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4).double(), nn.Linear(4, 5))
    found = [parameter.detach().data_ptr() for parameter in trained(model)]
    assert found == [tensor.data_ptr() for tensor in tensors(model, "weights")]


def test_packed_tensors_of_several_dtypes_are_unpacked_bit_by_bit() -> None:
    mixed = [torch.rand(()), torch.rand(3).bfloat16(), torch.rand(2, 2).double(), torch.arange(2)]
    found = [torch.zeros_like(tensor) for tensor in mixed]
    packed = pack(mixed)
    unpack(packed, found)
    assert len(packed) == 4 + 6 + 32 + 16
    assert all(torch.equal(a, b) for a, b in zip(found, mixed, strict=True))


def loss_of(model: Tower) -> float:
    with torch.no_grad():
        rows = draw(VALIDATION_ROWS, 2)
        return model.eval().loss(model(rows), rows.y).item()


def test_averaged_replicas_are_evaluated_with_averaged_statistics() -> None:
    """On label-skewed replicas of equal size, the mean of the ranks' models in one process."""
    ranks = results(
        4,
        "model_averaging",
        "Normalised",
        data={"rows": 96},
        partition=Partition("labels"),
        hyper_parameters={"tau": 7},
    )
    model = Normalised(LinearRule.features)
    for name, own in (("weights", "weights"), ("buffers", "buffers")):
        mean = torch.tensor(np.mean([rank[own] for rank in ranks], axis=0))
        found = tensors(model, name)  # type: ignore[arg-type]
        for tensor, part in zip(found, mean.split([t.numel() for t in found]), strict=True):
            tensor.copy_(part.view_as(tensor))
    assert ranks[0]["points"][-1]["validation_loss"] == pytest.approx(loss_of(model), abs=1e-6)
    assert relative_distance(ranks[0]["buffers"], ranks[1]["buffers"]) > 0.01


@pytest.mark.parametrize("model", ["Normalised", "Tempered", "Grouped", "Named", "Trusting"])
def test_downpour_with_one_worker_is_plain_training(model: str) -> None:
    (downpour,), (plain,) = (results(1, name, model) for name in ("downpour", "baseline"))
    assert np.array_equal(downpour["weights"], plain["weights"])
    assert downpour["weights_sha256"] == plain["weights_sha256"]
    assert downpour["points"][-1]["validation_loss"] == plain["points"][-1]["validation_loss"]


@pytest.mark.parametrize("algorithm", ["sync_sgd", "downpour", "admm", "codistillation"])
def test_a_parameter_of_no_dimension_is_trained(algorithm: str) -> None:
    hyper = {"burn_in": 5, "period": 5} if algorithm == "codistillation" else {}
    ranks = results(2, algorithm, "Tempered", hyper_parameters=hyper)
    temperature = ranks[0]["weights"][0]  # its own parameter comes before those of its tower
    assert temperature != 0.0
    sent = ranks[0]["points"][-1]["bytes_sent_per_worker"]
    assert sent == pytest.approx(np.mean([r["expected_bytes_per_worker"] for r in ranks]))


def test_frozen_parameters_are_not_sent_and_tied_ones_once() -> None:
    ranks = results(2, "model_averaging", "Frozen", hyper_parameters={"tau": 10})
    trained = 16 * 16 + 16 + 16 + 1
    assert ranks[0]["parameters"] == trained
    assert ranks[0]["points"][-1]["bytes_sent_per_worker"] == 4 * trained * STEPS // 10


def test_float64_is_trained_in_float64() -> None:
    """By hand in one process; in float32 the inputs would all be equal."""
    (ran,) = results(1, "baseline", "Exact")
    assert ran["weights"].dtype == np.float64
    model = Exact(LinearRule.features)
    vector_to_parameters(torch.tensor(ran["initial"]), model.parameters())
    dataset, order = LinearRule().training(), BatchOrder(100, 6, ran["order_seed"])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(STEPS):
        batch = dataset.__getitems__(order.batch(step))
        optimizer.zero_grad()
        model.loss(model(batch), batch.y.double()).backward()
        optimizer.step()
    expected = parameters_to_vector(model.parameters()).detach().numpy()
    assert relative_distance(ran["weights"][1:], expected[1:]) < 1e-12


@pytest.mark.parametrize(("model", "size"), [("Exact", 8), ("Short", 2), ("Tower", 4)])
@pytest.mark.parametrize("algorithm", ["sync_sgd", "model_averaging", "downpour", "admm"])
def test_bytes_follow_the_dtype(algorithm: str, model: str, size: int) -> None:
    place = model if model == "Tower" else f"tests.models:{model}"
    described = trial(2, 6, STEPS, algorithm=algorithm, model=place)
    ranks = run_ranks(2, train, described, Plan())
    sent = ranks[0]["points"][-1]["bytes_sent_per_worker"]
    assert sent == pytest.approx(np.mean([r["expected_bytes_per_worker"] for r in ranks]), rel=0.01)
    parameters = LinearRule.features * 16 + 16 + 16 + 1
    messages = {"sync_sgd": STEPS, "downpour": STEPS}.get(algorithm, STEPS // 10)
    assert sent == pytest.approx(size * parameters * messages, rel=0.25)  # requests and norms


def test_ranks_that_begin_with_different_models_are_refused() -> None:
    with pytest.raises(RankFailed, match="begins with another model than rank 0"):
        results(2, "sync_sgd", "Unseeded")
