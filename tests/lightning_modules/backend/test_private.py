"""The private names of other packages that the backend relies on are still there."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import LightningModule

from paceline.lightning_modules.backend import private, strategy
from paceline.lightning_modules.backend.private import RELIED_ON, PrivateName, QuickHooks

assert strategy  # which imports DeepSpeed for the CPU


def is_there(name: PrivateName) -> bool:
    found: Any = import_module(name.module)
    for part in name.path.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("name", RELIED_ON, ids=lambda name: name.path)
def test_a_private_name_is_still_there(name):
    assert is_there(name), f"{name.module} has no {name.path}. {name.purpose}: {name.remedy}."


def test_a_name_that_is_gone_is_noticed():
    assert not is_there(PrivateName("deepspeed.comm.comm", "gone", "nothing", "nothing"))


def test_lightning_still_notes_the_hooks_that_it_calls() -> None:
    remedy = "profile a step, and name in QuickHooks what is set around hooks now, or delete it"
    assert QuickHooks.NOTE in vars(LightningModule()), remedy


def test_no_other_module_of_the_package_uses_them():
    package = Path(private.__file__).parents[1]
    names = {name.path.rpartition(".")[2] for name in RELIED_ON} - {"mpu"}
    overridden = {"_setup_model_and_optimizer", "_get_process_group_backend"}
    overridden.add("_init_deepspeed_distributed")  # a subclass of the strategy calls it
    for file in (path for path in package.rglob("*.py") if path.name != "private.py"):
        used = {name for name in names - overridden if f".{name}" in file.read_text()}
        assert not used, f"{file.name} uses {used}; use the functions of private.py"
