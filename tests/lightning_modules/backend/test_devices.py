"""Which device and which backend a rank has, by the numbers of nodes and of GPUs on each.

No GPU is there: torch is told how many to count.
"""

import pytest
import torch
from pytorch_lightning import Trainer

from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.backend.strategy import DeepSpeedBackend, devices_of


def trainer(
    monkeypatch: pytest.MonkeyPatch, nodes: int, ranks: int, gpus: int, node: int, local: int
) -> Trainer:
    """The trainer of one rank, as `run_rank` makes it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(
        "pytorch_lightning.accelerators.cuda.num_cuda_devices", lambda: gpus, raising=True
    )
    monkeypatch.setattr(
        "lightning_fabric.accelerators.cuda.num_cuda_devices", lambda: gpus, raising=True
    )
    world = nodes * ranks
    for name, value in {
        "RANK": node * ranks + local,
        "LOCAL_RANK": local,
        "GROUP_RANK": node,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    devices = devices_of(ranks, gpus)
    return Trainer(
        accelerator=devices[0].type,
        devices=len(set(devices)) if gpus else ranks,
        num_nodes=nodes,
        strategy=DeepSpeedBackend(Layout(world, 1), devices=devices),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.parametrize(
    ("nodes", "ranks", "gpus", "node", "local", "device", "backend"),
    [
        (2, 8, 8, 1, 7, "cuda:7", "nccl"),
        (4, 1, 1, 3, 0, "cuda:0", "nccl"),
        (1, 8, 8, 0, 5, "cuda:5", "nccl"),
        (1, 4, 2, 0, 3, "cuda:1", "gloo"),
        (2, 2, 0, 1, 1, "cpu", "gloo"),
    ],
)
def test_a_rank_has_its_device_and_its_backend(
    monkeypatch, nodes, ranks, gpus, node, local, device, backend
):
    made = trainer(monkeypatch, nodes, ranks, gpus, node, local)
    strategy = made.strategy
    assert isinstance(strategy, DeepSpeedBackend)
    assert str(strategy.root_device) == device
    assert strategy._get_process_group_backend() == backend
    assert (made.world_size, made.global_rank) == (nodes * ranks, node * ranks + local)
    assert (made.num_nodes, made.node_rank, made.local_rank) == (nodes, node, local)
