"""An ordinary LightningModule as a workload: what runs, what is left out, what is told in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.benchmarks.spec.benchmark import Benchmark
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.suitable import prepared
from paceline.lightning_modules import find_algorithms
from tests import ROOT
from tests.own_workload import load

TEXT = (ROOT / "docs" / "examples" / "my_lightning_module.py").read_text()
LOSS = 'self.log("val_loss", nn.functional.cross_entropy(logits, y))'


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., Benchmark]:
    """The example, with some of its text replaced, as a benchmark."""

    def changed(old: str = "", new: str = "", *overrides: str) -> Benchmark:
        assert old in TEXT
        path = tmp_path / "module.py"
        path.write_text(TEXT.replace(old, new))
        return load(f"{path}:Digits", *overrides)

    return changed


def test_algorithms_that_need_logits_are_left_out_with_the_reason(module) -> None:
    benchmark = module()
    needing = {name for name, cls in find_algorithms().items() if cls.needs_logits}
    assert {label for label, _ in benchmark.left_out()} == needing
    assert set(benchmark.left_out().values()) == {
        f"algorithms.{name}: needs logits and labels, and module.py:Digits has no inverse, labels, loss,"
        " metric, probabilities"
        for name in needing
    }
    assert prepared(benchmark.trials())


def test_hooks_that_are_not_called_are_named(module) -> None:
    assert module().workload.hooks_not_called == {}
    hooks = "".join(
        f"    def {name}(self):\n        pass\n\n" for name in ("on_train_epoch_end", "backward")
    )
    step = "    def training_step"
    named = {"module.py:Digits": ["backward", "on_train_epoch_end"]}
    assert module(step, hooks + step).workload.hooks_not_called == named
    loader = "    def train_dataloader"
    moving = "    def transfer_batch_to_device(self, batch, device, i):\n        return batch\n\n"
    named = {"module.py:DigitsData": ["transfer_batch_to_device"]}
    assert module(loader, moving + loader).workload.hooks_not_called == named


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "def training_step",
            "def step",
            "has no method 'training_step': it returns the loss of a batch",
        ),
        (
            "def validation_step",
            "def evaluate",
            "has no method 'validation_step': it logs the loss of a batch of validation examples with"
            " self.log",
        ),
        (
            "def configure_optimizers",
            "def optimizers_of_mine",
            "has no method 'configure_optimizers': it returns the optimizer",
        ),
        (
            "        return loss",
            "        return None",
            ": training_step raised ValueError: training_step has to return the loss, a scalar, or"
            " {'loss': loss}",
        ),
        (
            LOSS,
            "pass",
            ": validation_step raised ValueError: validation_step logs val_acc; log the loss with"
            " self.log('val_loss', loss), or name what you log in an attribute loss_name",
        ),
        (
            LOSS,
            'self.log("val_loss", nn.functional.cross_entropy(logits, y, reduction="none"))',
            ": validation_step raised ValueError: val_loss is logged as [16]; log the mean over the rows,"
            " a scalar",
        ),
        (
            "self.save_hyperparameters()",
            "self.save_hyperparameters()\n        self.automatic_optimization = False",
            ": configure_optimizers() raised ValueError: automatic_optimization is False; only"
            " training_step with one optimizer can be run",
        ),
        (
            "        schedule = OneCycleLR",
            "        return [optimizer, optimizer]\n        schedule = OneCycleLR",
            ": configure_optimizers() raised ValueError: configure_optimizers gives 2 optimizers and 0"
            " schedulers; give one optimizer and at most one scheduler",
        ),
        (
            "        schedule = OneCycleLR",
            "        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)\n"
            "        return {'optimizer': optimizer, 'lr_scheduler': plateau, 'monitor': 'val_loss'}\n"
            "        schedule = OneCycleLR",
            ": configure_optimizers() raised ValueError: configure_optimizers gives ReduceLROnPlateau,"
            " which depends on a metric; give a scheduler that depends on the number of steps",
        ),
        (
            "self.parameters(), lr",
            "self.network[0].parameters(), lr",
            ": the optimizer of configure_optimizers() does not step on network.1.weight,"
            " network.1.bias, network.6.weight, network.6.bias; put them into a group, or set"
            " requires_grad to False",
        ),
        (
            "        x, y = batch\n        loss",
            "        x, y = batch['x'], batch['y']\n        loss",
            ": training_step raised TypeError: list indices must be integers or slices, not str"
            " (line 45)",
        ),
        (
            "self.trainer.estimated_stepping_batches",
            "self.trainer.num_devices",
            ": configure_optimizers() raised AttributeError: self.trainer.num_devices is not available in"
            " a module that Paceline runs (line 62)",
        ),
    ],
)
def test_what_cannot_be_run_is_one_line(module, old: str, new: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        prepared(module(old, new).trials())
    text = str(error.value)
    assert "\n" not in text
    separator = "" if expected.startswith(":") else " "
    assert text == f"module.py:Digits{separator}{expected}"


def test_a_weighted_mean_that_does_not_say_its_weights_is_told(module) -> None:
    weights = "torch.arange(1.0, 11.0)"
    weighted = f"nn.functional.cross_entropy(logits, y, weight={weights})"
    with pytest.raises(ConfigError, match=r"the loss of 16 validation examples is .*batch_size="):
        prepared(module(LOSS, f'self.log("val_loss", {weighted})').trials())
    stated = f'self.log("val_loss", {weighted}, batch_size=float({weights}[y].sum()))'
    assert prepared(module(LOSS, stated).trials())


ACCURACY = 'self.log("val_acc", self.accuracy)'
VALIDATION = "    def val_dataloader"
LOADERS = "return DataLoader(self.validation, batch_size=256)"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def training_step(self, batch, batch_idx)", "def training_step(self, batch, _)"),
        ("def training_step(self, batch, batch_idx)", "def training_step(self, *batch)"),
        (
            "        loss = nn.functional.cross_entropy(self(x), y, label_smoothing=0.1)",
            "        x = x.requires_grad_()\n        loss = self(x).square().mean()\n"
            "        loss = loss + torch.autograd.grad(loss, x, create_graph=True)[0].norm()",
        ),
        ("        logits = self(x)", "        logits = self(x + torch.rand_like(x))"),
        ("        logits = self(x)", "        logits = self(x).squeeze()"),
        (LOADERS, f"return [{LOADERS.removeprefix('return ')}]"),
        (
            VALIDATION,
            "    def on_after_batch_transfer(self, batch, i):\n"
            f"        return batch if not self.trainer.training else batch\n\n{VALIDATION}",
        ),
        (
            "    def training_step",
            "    def setup(self, stage):\n        self.first = self.trainer.global_step\n\n"
            "    def training_step",
        ),
        (
            'self.log("train_loss", loss, prog_bar=True)',
            'self.log("lr", self.optimizers().param_groups[0]["lr"])',
        ),
        (
            LOSS,
            'self.log("valid/nll", loss := nn.functional.cross_entropy(logits, y))\n        return loss',
        ),
    ],
)
def test_what_people_write_is_accepted(module, old: str, new: str) -> None:
    named = "" if "valid/nll" not in new else '    loss_name = "valid/nll"\n\n    def forward'
    changed = TEXT.replace(old, new).replace("    def forward", named or "    def forward")
    if "*batch" in new:
        changed = changed.replace(
            "        x, y = batch\n        loss", "        x, y = batch[0]\n        loss"
        )
    assert prepared(module(TEXT, changed).trials())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "batch_size=32, shuffle=True",
            "sampler=torch.utils.data.SubsetRandomSampler(range(9))",
            "train_dataloader() has a SubsetRandomSampler, which is not used",
        ),
        (
            "batch_size=32, shuffle=True",
            "sampler=torch.utils.data.WeightedRandomSampler([1.0] * 1437, 1437)",
            "train_dataloader() has a WeightedRandomSampler, which is not used",
        ),
        (
            "batch_size=256",
            "batch_sampler=[[0, 1], [2, 3]]",
            "val_dataloader() has a list, which is not used",
        ),
        (
            "    def forward",
            '    metric_name = "valid_f1"\n\n    def forward',
            "validation_step logs val_loss, val_acc, and metric_name is 'valid_f1'; give one of the",
        ),
        (
            "self.save_hyperparameters()",
            "self.save_hyperparameters()\n        self.total = self.trainer.max_epochs",
            "building it raised RuntimeError: Digits is not attached to a `Trainer`.",
        ),
        (
            "    def training_step",
            "    def setup(self, stage):\n        self.total = self.trainer.max_epochs\n\n"
            "    def training_step",
            "self.trainer.max_epochs is not available before configure_optimizers",
        ),
    ],
)
def test_what_would_be_silently_wrong_is_one_line(
    module, old: str, new: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as error:
        prepared(module(old, new).trials())
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_no_mean_over_rows_can_say_so(module) -> None:
    contrastive = 'self.log("val_loss", nn.functional.cross_entropy(logits @ logits.T, y * 0))'
    with pytest.raises(ConfigError, match="or set mean_over_rows = False in the class"):
        prepared(module(LOSS, contrastive).trials())
    text = TEXT.replace(LOSS, contrastive)
    text = text.replace("    def forward", "    mean_over_rows = False\n\n    def forward")
    assert prepared(module(TEXT, text).trials())


def test_a_file_beside_it_that_is_not_found_is_told_with_the_cure(module, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text("")
    with pytest.raises(ConfigError, match=f"mynet.py lies beside it: set PYTHONPATH={tmp_path}"):
        module("import torch\n", "import mynet\nimport torch\n")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["--scale.accumulate=3"],
            "scale.accumulate: a worker's batch of 32 examples cannot be divided",
        ),
        (["--scale.accumulate=0"], "scale.accumulate must be positive, not 0"),
        (["--scale.clip_norm=-1"], "scale.clip_norm must be positive, not -1"),
        (["--scale.precision=16"], "scale.precision"),
        (
            ["--scale.precision=bf16", "--scale.zero_stage=1"],
            "is bfloat16, which ZeRO 1 would train in",
        ),
        (
            ["--partition.kind=labels"],
            "partition.kind: labels needs the labels, and module.py:Digits",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(module, overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        prepared(module("", "", *overrides).trials())
    assert "\n" not in str(error.value)
    assert expected in str(error.value)


def test_mixed_precision_needs_float32_weights(module) -> None:
    accuracy = "        self.accuracy ="
    mixed = "--scale.precision=bf16-mixed"
    with pytest.raises(ConfigError, match=r"bf16-mixed needs float32 weights, and .* is float64"):
        prepared(module(accuracy, f"        self.double()\n{accuracy}", mixed).trials())
