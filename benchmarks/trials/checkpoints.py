"""Checkpoints of a trial, from which it goes on after an interruption.

A checkpoint is saved after an evaluation if the latest one is older than `PACELINE_CHECKPOINT_S` seconds,
600 by default. With 0, one is saved after every evaluation. It is a folder under `PACELINE_HOME`, named
after the identity of the trial. It is complete when it has its final name. Saving is off the clock.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed
from pytorch_lightning import Callback, LightningModule, Trainer

from paceline.benchmarks.nodes.cluster import current
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.home import home

INTERVAL = "PACELINE_CHECKPOINT_S"
KEPT_DAYS = 14  # a trial that was not continued for so long will not be


class Checkpoints:
    """The checkpoints of one trial, as the parent of its ranks sees them.

    Attributes:
        folder: the folder of the checkpoints.
        start: the checkpoint from which the trial goes on, or None if it starts anew.

    Args:
        trial_id: the identity of the trial.
    """

    def __init__(self, trial_id: str) -> None:
        self.folder = all_checkpoints() / trial_id
        self.start = self._latest()

    def _latest(self) -> Path | None:
        found = [path for path in self.folder.glob("step_*") if not path.suffix]
        return max(found, key=lambda path: int(path.name.removeprefix("step_")), default=None)

    def after_failure(self, for_next: bool) -> None:
        """Removes the checkpoints unless the next attempt can go on from them.

        It cannot if this attempt started from the latest one. That one may be damaged, or the trial may
        always fail after it.

        Args:
            for_next: whether there will be a next attempt that may end in another way.
        """
        if not for_next or self._latest() == self.start:
            self.remove()

    def remove(self) -> None:
        """Removes all checkpoints of the trial, on all nodes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        current().everywhere(shutil.rmtree, self.folder, True)


def all_checkpoints() -> Path:
    """Returns the folder of the checkpoints of all trials."""
    (folder := home() / "checkpoints").mkdir(exist_ok=True)
    return folder


def remove_old() -> None:
    """Removes the checkpoints of trials that were not continued for `KEPT_DAYS` days."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for folder in all_checkpoints().glob("*"):
        with suppress(FileNotFoundError):  # another process may remove its own
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def saving_interval() -> float:
    """Returns the least number of seconds between two checkpoints.

    Raises:
        ConfigError: if `PACELINE_CHECKPOINT_S` is no such number.
    """
    text = os.environ.get(INTERVAL, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigError(f"{INTERVAL}={text} is no number of seconds, 0 or more")
    return seconds


class Saving(Callback):
    """Saves the checkpoints of a trial. Every rank has this callback.

    Args:
        folder: the folder of the checkpoints.
        interval: the least number of seconds between two of them. By default, it is that of
            `PACELINE_CHECKPOINT_S`.
    """

    def __init__(self, folder: Path, interval: float | None = None) -> None:
        self.folder = folder
        self.interval = saving_interval() if interval is None else interval
        self.saved = time.monotonic()

    def on_validation_end(self, trainer: Trainer, algorithm: LightningModule) -> None:
        assert trainer.max_epochs is not None
        if trainer.should_stop or trainer.current_epoch + 1 >= trainer.max_epochs:
            return  # training has ended, so nothing could go on from here
        waited = torch.tensor([time.monotonic() - self.saved], dtype=torch.float64)
        waited = waited.to(algorithm.device)
        torch.distributed.broadcast(waited, 0)  # all ranks save, or none
        if waited.item() < self.interval:
            return
        final = self.folder / f"step_{trainer.global_step}"
        partial = final.with_suffix(".partial")
        before = [path for path in self.folder.glob("step_*") if path != partial]
        trainer.save_checkpoint(partial)
        torch.distributed.barrier()
        if os.environ["LOCAL_RANK"] == "0":
            # On a folder that nodes share, one of them is first.
            with suppress(FileNotFoundError):
                _sync(partial)
                partial.rename(final)
            for path in before:
                shutil.rmtree(path, ignore_errors=True)
        torch.distributed.barrier()  # nobody lists the folder meanwhile
        self.saved = time.monotonic()


def _sync(folder: Path) -> None:
    """Waits until the files of a folder are on the disk."""
    for file in filter(Path.is_file, folder.rglob("*")):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
