"""What a person is told whose own model does not fit."""

from pathlib import Path

import pytest

from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.suitable import prepared
from tests.own_workload import load


def message(task: str) -> str:
    """The one line that somebody gets who runs `task`."""
    with pytest.raises(ConfigError) as error:
        prepared(load(task).trials())
    text = str(error.value)
    assert "\n" not in text
    return text


def test_hyper_parameters_that_an_algorithm_refuses(model_file) -> None:
    benchmark = load(model_file(), "--algorithms.downpour.n_push=0")
    with pytest.raises(ConfigError) as error:
        prepared(benchmark.trials())
    assert str(error.value) == "algorithms.downpour: n_push must be at least 1 step, not 0"


def test_a_file_that_is_not_there() -> None:
    assert message("nonesuch.py:MyTask") == "cannot read nonesuch.py: No such file or directory"


def test_a_file_without_a_class_behind_it(model_file) -> None:
    path = model_file().rpartition(":")[0]
    assert message(path) == f"{path} names no class; write {path}:CLASS"


def test_what_is_no_file() -> None:
    expected = "--workload is path/to/file.py:CLASS, not torch.nn:Linear"
    assert message("torch.nn:Linear") == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "class MyTask(Task):",
            "class MyTsk(Task):",
            "has no class 'MyTask'; did you mean 'MyTsk'?",
        ),
        (
            "import torch\n",
            "import torch\nimport nonesuch\n",
            "cannot be loaded: ModuleNotFoundError: No module named 'nonesuch' (line 4)",
        ),
        (
            "super().__init__()\n        self.lr",
            "super().__init__(\n        self.lr",
            "cannot be loaded: SyntaxError: '(' was never closed (my_model.py, line 36)",
        ),
        (
            "class MyData(LightningDataModule):",
            "class MyData:",
            "holds no LightningDataModule; put a class derived from it into the file",
        ),
        (
            "class MyTask(Task):",
            "class Other(LightningDataModule):\n    pass\n\n\nclass MyTask(Task):",
            "holds 2 classes derived from LightningDataModule, MyData, Other; leave one, or name one"
            " in a YAML as workload.data.class",
        ),
    ],
)
def test_a_file_that_does_not_serve(model_file, old: str, new: str, expected: str) -> None:
    assert message(model_file(old, new)) == f"my_model.py {expected}"


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("forward", "forward(batch)': The logits of a batch, one row an example."),
        ("labels", "labels(batch)': The labels of a batch, one row an example."),
        ("loss", "loss(logits, labels)': The mean loss over the rows, a scalar."),
        ("probabilities", "probabilities(logits)': The predictions that a user would be served."),
        (
            "inverse",
            "inverse(probabilities)': Logits that `probabilities` turns into these: how an ensemble's"
            " mean gets a loss.",
        ),
        ("metric", "metric()': A fresh metric, updated with (probabilities, labels)."),
        (
            "configure_optimizer",
            "configure_optimizer(parameters)': The optimizer that the workload is trained with unless"
            " the algorithm brings its own.",
        ),
    ],
)
@pytest.mark.parametrize("base", ["Task", "nn.Module", "LightningModule"])
def test_a_task_without_a_method(model_file, base: str, name: str, call: str) -> None:
    task = model_file(f"def {name}(", f"def other_{name}(")
    path = Path(task.rpartition(":")[0])
    imported = "from pytorch_lightning import LightningDataModule, LightningModule"
    text = path.read_text().replace("class MyTask(Task)", f"class MyTask({base})")
    path.write_text(text.replace("from pytorch_lightning import LightningDataModule", imported))
    assert message(task) == f"my_model.py:MyTask has no method '{call}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "loss_name, metric_name",
            "loss_name, other",
            "MyTask has no attribute 'metric_name', a string: the metric beside it",
        ),
        (
            "class MyTask(Task)",
            "class MyTask",
            "MyTask is no torch.nn.Module; derive it from paceline.lightning_modules.backend.task.Task",
        ),
        (
            "def train_dataloader",
            "def other",
            "MyData has no method 'train_dataloader()', a DataLoader: the examples to train on",
        ),
        (
            "def val_dataloader",
            "def other",
            "MyData has no method 'val_dataloader()', a DataLoader: the examples to evaluate on",
        ),
        (
            "return DataLoader(self.train)",
            "return [self.train]",
            "MyData: train_dataloader() has to give a DataLoader over a dataset with __len__ and"
            " __getitem__, as examples are dealt to the ranks by their numbers",
        ),
        (
            "return DataLoader(self.validation)",
            "return DataLoader(TensorDataset(torch.ones(0)))",
            "MyData: val_dataloader() has no examples",
        ),
        (
            "x, y = load_digits(return_X_y=True)",
            "x, y = load_digits()",
            "MyData: setup('fit'), without what prepare_data() has set on itself, raised ValueError:"
            " too many values to unpack (expected 2) (line 19)",
        ),
        (
            "    def setup(self, stage: str | None = None):\n",
            "    def prepare_data(self):\n        self.shift = 16\n\n"
            "    def setup(self, stage: str | None = None):\n        print(self.shift)\n",
            "MyData: setup('fit'), without what prepare_data() has set on itself, raised"
            " AttributeError: 'MyData' object has no attribute 'shift' (line 22)",
        ),
        (
            'MulticlassAccuracy(10, average="micro")',
            "MulticlassAccuracy(10, average=None)",
            "MyTask: metric().compute() gave [10]; give one number, a scalar",
        ),
        (
            "torch.optim.SGD(parameters, lr=self.lr)",
            "torch.optim.SGD(self.network[0].parameters(), lr=self.lr)",
            "MyTask: the optimizer of configure_optimizer(parameters) does not step on"
            " network.2.weight, network.2.bias; put them into a group, or set requires_grad to False",
        ),
        (
            "torch.optim.SGD(parameters, lr=self.lr)",
            "torch.optim.SGD([*parameters, nn.Parameter(torch.zeros(1))], lr=self.lr)",
            "MyTask: the optimizer of configure_optimizer(parameters) steps on what it was not given:"
            " tensors of another model",
        ),
        (
            "nn.Linear(width, 10))",
            "nn.Linear(width, 10)).requires_grad_(False)",
            "MyTask has no parameter to train",
        ),
        (
            "nn.Linear(width, 10))",
            "nn.Linear(width, 10).double())",
            "MyTask: its trained parameters are float32 and float64; they have to be of one dtype,"
            " float32, float64 or bfloat16",
        ),
        (
            "nn.Linear(width, 10))",
            "nn.Linear(width, 10))\n        self.to(torch.complex64)",
            "MyTask: its trained parameters are complex64; they have to be of one dtype,"
            " float32, float64 or bfloat16",
        ),
        (
            "part[1437:] for part",
            "part[1437:1438] for part",
            "MyData: val_dataloader() has 1 examples, fewer than the 2 workers of admm, 2 workers, seed"
            " 0; give more rows or set --scale.workers",
        ),
        (
            "return self.network(batch[0])",
            "return self.network(batch['x'])",
            "MyTask: forward(batch) raised TypeError: list indices must be integers or slices, not"
            " str (line 41)",
        ),
        (
            "return batch[1]",
            "return batch[1][:1]",
            "MyTask: labels(batch) [1] has not one row for each of forward(batch) [2, 10]",
        ),
        (
            "return batch[1]",
            "return batch[1][:, None]",
            "MyTask: loss(logits [2, 10], labels [2, 1]) raised RuntimeError: ",
        ),
        (
            "cross_entropy(logits, labels)",
            "cross_entropy(logits, labels, reduction='none')",
            "MyTask: loss gave [2]; give the mean over the rows, a scalar",
        ),
        (
            "cross_entropy(logits, labels)",
            "nll_loss(logits, labels)",
            "MyTask: loss(logits, probabilities [2, 10]), a distillation's, raised RuntimeError: ",
        ),
        (
            "probabilities.clamp(min=1e-7).log()",
            "probabilities.sum(dim=1)",
            "MyTask: inverse(probabilities) gave [2], and the logits are [2, 10]",
        ),
        (
            'MulticlassAccuracy(10, average="micro")',
            "0.5",
            "MyTask: metric().update(probabilities, labels) raised TypeError: a float is no"
            " torchmetrics.Metric",
        ),
        (
            "torch.optim.SGD(parameters, lr=self.lr)",
            "None",
            "MyTask: configure_optimizer(parameters) raised TypeError: a NoneType is no"
            " torch.optim.Optimizer",
        ),
    ],
)
def test_a_class_that_does_not_fit(model_file, old: str, new: str, expected: str) -> None:
    found = message(model_file(old, new)).removeprefix("my_model.py:")
    assert found.startswith(expected)


def test_an_argument_that_nobody_gives(model_file) -> None:
    with pytest.raises(ConfigError) as error:
        load(model_file("width: int = 64", "width: int"))
    assert "the following arguments are required: workload.task.width" in str(error.value)
