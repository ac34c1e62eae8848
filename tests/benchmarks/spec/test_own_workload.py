"""A person's own model, from a Python file of theirs, under every algorithm."""

import csv
import io
from pathlib import Path

import pytest

from paceline.benchmarks.spec.benchmark import Benchmark
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.reading import load_benchmark, load_workload
from paceline.benchmarks.spec.suitable import data_fingerprint, description, prepared
from paceline.benchmarks.sweeps.plan import plans
from paceline.benchmarks.trials.rank import run_rank
from paceline.lightning_modules import find_algorithms
from tests import ROOT
from tests.checkout import Checkout
from tests.workload import run_ranks

EXAMPLE = ROOT / "docs" / "examples" / "my_model.py"
TEXT = EXAMPLE.read_text()
SMALL = ["--workload.data.rows=200", "--workload.budget.examples=640", "--scale.batch_size=8"]


@pytest.fixture
def written(tmp_path: Path):
    """Writes the example, with some of its text replaced, and gives the name of its task."""

    def write(old: str = "", new: str = "", task: str = "MyTask") -> str:
        assert old in TEXT
        path = tmp_path / "my_model.py"
        path.write_text(TEXT.replace(old, new))
        return f"{path}:{task}"

    return write


def load(task: str, *overrides: str) -> Benchmark:
    return load_workload(task, list(overrides))


# The example of the documentation


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The example under every algorithm, from a copy of its file that is changed afterwards."""
    checkout = Checkout(tmp_path_factory.mktemp("own"))
    file = checkout.folder / "my_model.py"
    file.write_text(TEXT)
    done = checkout.call(
        *("run", "--workload", f"{file}:MyTask", f"--report={checkout.pdf}", *SMALL)
    )
    assert done.returncode == 0, done.stderr + done.stdout
    file.write_text("raise RuntimeError('changed')")
    return checkout


def rows(checkout: Checkout) -> list[dict[str, str]]:
    done = checkout.call("results", "my_model", "--format", "csv")
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_the_example_has_fewer_than_60_lines() -> None:
    assert len(TEXT.splitlines()) < 60


def test_every_algorithm_trains_the_example(finished: Checkout) -> None:
    found = rows(finished)
    assert {row["algorithm"] for row in found} == set(find_algorithms())
    for row in found:
        assert row["status"] == "FINISHED"
        assert row["workers"] == ("1" if row["algorithm"] == "baseline" else "2")
        assert row["data"] == "MyData"
        assert float(row["final_loss"]) < 2.3  # ln 10, of a constant prediction
    assert finished.pdf.read_bytes().startswith(b"%PDF")


def test_a_rerun_repeats_the_text_that_was_run_whatever_is_in_the_file_now(
    finished: Checkout,
) -> None:
    run_id = next(row["run_id"] for row in rows(finished) if row["algorithm"] == "sync_sgd")
    repeated = finished.call("rerun", run_id)
    assert repeated.returncode == 0, repeated.stderr
    assert "bitwise equal" in repeated.stdout
    assert "differs" not in repeated.stdout


# What a file may be


def test_a_trial_is_another_when_the_file_changes(written) -> None:
    def identities() -> set[str]:
        return {trial.identity() for trial in load(written()).trials()}

    before = identities()
    assert identities() == before
    after = {trial.identity() for trial in load(written("nn.ReLU()", "nn.Tanh()")).trials()}
    assert not before & after


def test_every_field_can_be_overridden(written) -> None:
    benchmark = load(
        written(), "--scale.workers=[1,2]", "--workload.task.width=8", "--workload.target.loss=1.5"
    )
    assert benchmark.name == "my_model"
    assert benchmark.workload.task.arguments == {"width": 8, "lr": 0.5}
    assert benchmark.workload.target.loss == 1.5
    trials = {(trial.label, trial.workers) for trial in benchmark.trials()}
    assert {workers for label, workers in trials if label == "sync_sgd"} == {1, 2}
    assert {workers for label, workers in trials if label == "codistillation"} == {2}
    assert list(benchmark.left_out().values()) == [
        "algorithms.codistillation.workers: codistillation needs two replicas, and 1 workers form one"
    ]


def left_out_under(stage: int, task: str) -> dict[str, str]:
    benchmark = load(task, f"--scale.zero_stage={stage}")
    return {label: reason for (label, _), reason in benchmark.left_out().items()}


def test_what_does_not_run_under_a_stage_of_zero_is_left_out_with_the_reason(written) -> None:
    assert not left_out_under(0, written())
    assert left_out_under(1, written()) == {
        "downpour": "algorithms.downpour: runs under ZeRO 0, and scale.zero_stage is 1"
    }
    whole = {"admm", "codistillation", "downpour", "elastic_averaging", "model_averaging"}
    assert set(left_out_under(3, written())) == whole


@pytest.mark.parametrize("stage", [1, 3])
def test_every_algorithm_runs_under_the_stages_of_zero_that_it_states(written, stage: int) -> None:
    overrides = (f"--scale.zero_stage={stage}", "--workload.budget.evaluations=1")
    for trial in load(written(), *SMALL, *overrides).trials():
        run_ranks(trial.workers, run_rank, trial)


def test_an_optimizer_that_looks_at_tensors_is_refused_where_zero_cuts_them(written) -> None:
    for name in (
        "SGD(parameters, lr=0.1, momentum=0.9)",
        "Adagrad(parameters)",
        "AdamW(parameters)",
    ):
        task = written("SGD(parameters, lr=self.lr)", name)
        prepared(load(task, "--scale.zero_stage=1").trials())
    matrices = written(
        "10))", "10, bias=False)).requires_grad_(False); self.network[2].requires_grad_()"
    )
    path = Path(matrices.rpartition(":")[0])
    path.write_text(path.read_text().replace("SGD(parameters, lr=self.lr)", "Muon(parameters)"))
    prepared(load(matrices).trials())
    with pytest.raises(ConfigError) as error:
        prepared(load(matrices, "--scale.zero_stage=1").trials())
    assert str(error.value) == (
        "my_model.py:MyTask: Muon looks at whole tensors, and ZeRO 1 gives it parts of them in one"
        " vector; leave scale.zero_stage at 0"
    )


def test_a_model_of_another_dtype_is_refused_under_zero(written) -> None:
    task = written("nn.Linear(width, 10))", "nn.Linear(width, 10)).double()")
    prepared(load(task).trials())
    with pytest.raises(
        ConfigError, match=r"is float64, which ZeRO 1 would train in float32; leave"
    ):
        prepared(load(task, "--scale.zero_stage=1").trials())


def test_a_yaml_names_classes_of_a_file_too(written, tmp_path) -> None:
    task = written()
    data = task.replace("MyTask", "MyData")
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"workload: {{data: {{class: '{data}'}}, task: {{class: '{task}'}}, target: {{loss: 1}}}}\n"
        "algorithms: {sync_sgd: {}}\nscale: {workers: [2]}"
    )
    workload = load_benchmark(str(path), []).workload
    assert workload.task.source == workload.data.source == TEXT
    assert str(workload.data) == "my_model.py:MyData"


def test_without_a_target_of_its_own_none_is_reached(written) -> None:
    assert load(written()).workload.target.loss == 0.4
    assert load(written("target_loss", "other")).workload.target.loss == 0.0


def test_a_lightning_module_with_the_methods_of_a_task_is_one(written) -> None:
    text = written(
        "from paceline.lightning_modules.backend.task import Task",
        "from pytorch_lightning import *",
    )
    path = Path(text.rpartition(":")[0])
    path.write_text(path.read_text().replace("(Task)", "(LightningModule)"))
    trial = next(t for t in load(text, *SMALL).trials() if t.label == "codistillation")
    prepared([trial])
    figures = run_ranks(2, run_rank, trial)
    assert figures[0]["steps"] == 40


def test_a_sweep_draws_for_the_text_that_was_read(written) -> None:
    task = written("class MyTask(Task)", "class MyTask(nn.Module)")  # which states no search space
    planned, left_out = plans(load(task, "--sweep.algorithms=[elastic_averaging]"))
    (plan,) = planned
    assert not left_out
    assert set(plan.space()) == {"tau", "beta", "ranks_per_replica"}
    trial = plan.trial({"tau": 3}, seed=1)
    assert trial.hyper_parameters["tau"] == 3
    assert trial.workload.task.cls().lr == 0.5


def test_types_that_are_not_written_down_are_taken_as_they_come(written) -> None:
    benchmark = load(
        written("width: int = 64, lr: float = 0.5", "width=64, lr=0.5"), "--workload.task.lr=0.1"
    )
    assert benchmark.workload.task.arguments == {"width": 64, "lr": 0.1}


def test_data_without_a_fingerprint_are_known_by_their_sizes(written) -> None:
    def known(*overrides: str) -> tuple[dict[str, object], str]:
        data = prepared(load(written(), *overrides).trials())
        return description(data), data_fingerprint(data)

    about, identity = known()
    assert about == {
        "name": "MyData",
        "synthetic": False,
        "train_rows": 1437,
        "validation_rows": 360,
    }
    assert known()[1] == identity
    assert known("--workload.data.rows=100")[1] != identity


def test_a_fingerprint_of_ones_own_counts(written) -> None:
    own = 'class MyData(LightningDataModule):\n    fingerprint = "v2"\n'
    data = prepared(load(written("class MyData(LightningDataModule):\n", own)).trials())
    assert data_fingerprint(data) == "v2"


# What an unsuitable one is told


def message(task: str) -> str:
    """The one line that somebody gets who runs `task`."""
    with pytest.raises(ConfigError) as error:
        prepared(load(task).trials())
    text = str(error.value)
    assert "\n" not in text
    return text


def test_hyper_parameters_that_an_algorithm_refuses(written) -> None:
    benchmark = load(written(), "--algorithms.downpour.n_push=0")
    with pytest.raises(ConfigError) as error:
        prepared(benchmark.trials())
    assert str(error.value) == "algorithms.downpour: n_push must be at least 1 step, not 0"


def test_a_file_that_is_not_there() -> None:
    assert message("nonesuch.py:MyTask") == "cannot read nonesuch.py: No such file or directory"


def test_a_file_without_a_class_behind_it(written) -> None:
    path = written().rpartition(":")[0]
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
def test_a_file_that_does_not_serve(written, old: str, new: str, expected: str) -> None:
    assert message(written(old, new)) == f"my_model.py {expected}"


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
def test_a_task_without_a_method(written, base: str, name: str, call: str) -> None:
    task = written(f"def {name}(", f"def other_{name}(")
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
            "MyData: the 1 validation examples cannot be divided among 2 workers (admm); give more,"
            " or take fewer workers",
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
def test_a_class_that_does_not_fit(written, old: str, new: str, expected: str) -> None:
    found = message(written(old, new)).removeprefix("my_model.py:")
    assert found.startswith(expected)


def test_an_argument_that_nobody_gives(written) -> None:
    with pytest.raises(ConfigError) as error:
        load(written("width: int = 64", "width: int"))
    assert "the following arguments are required: workload.task.width" in str(error.value)


def test_the_command_line_wants_one_of_a_benchmark_and_a_workload(checkout: Checkout) -> None:
    both = checkout.call("run", "criteo", "--workload", "x.py:X")
    assert both.returncode == 2
    assert "not allowed with argument" in both.stderr
    wrong = checkout.call("run", "--workload", "nonesuch.py:X")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: cannot read nonesuch.py: No such file or directory\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)
