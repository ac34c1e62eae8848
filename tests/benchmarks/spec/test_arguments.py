"""Arguments of a person's own class, whatever their types: recorded as text, given as what they are."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.reading import load_benchmark, load_workload
from paceline.benchmarks.spec.suitable import prepared
from tests import ROOT
from tests.checkout import Checkout
from tests.ranks import run_ranks

TEXT = (ROOT / "docs" / "examples" / "my_model.py").read_text()
SMALL = ["--workload.budget.examples=640", "--scale.batch_size=8"]
ODD = """
import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

class Mode(enum.Enum):
    PLAIN = 1
    ODD = 2

class Squared(nn.Module):
    def forward(self, x):
        return x * x

def halved(x):
    return x / 2

@dataclass
class Options:
    rate: float = 0.5

class MyTask(Task):"""
SIGNATURE = """(
        self,
        width: int = 64,
        lr: float = 0.5,
        where: Path = Path("here"),
        activation: type[nn.Module] = Squared,
        mode: Mode = Mode.PLAIN,
        tags: set[str] = {"b", "a", "c"},
        before: Callable = halved,
        after: Callable = torch.relu,
        options: Options = Options(),
        shape: tuple[int, int] = (1, 2),
        year="2024",
        untyped=nn.ReLU,
        unnamed=lambda x: x,
        number=float("inf"),
    ):
        super().__init__()
        given = (where, activation, mode, tags, before, after, options, shape, year)
        self.given = [*given, untyped, unnamed(3), number]
        assert isinstance(activation(), nn.Module), activation
        assert isinstance(mode, Mode), mode
"""


@pytest.fixture
def odd(tmp_path: Path) -> str:
    """A task whose constructor takes an argument of every kind."""
    head, _, tail = TEXT.partition(
        "(self, width: int = 64, lr: float = 0.5):\n        super().__init__()\n"
    )
    text = (head + SIGNATURE + tail).replace("class MyTask(Task):", ODD)
    path = tmp_path / "odd.py"
    path.write_text(text)
    return f"{path}:MyTask"


def first(task: str, *overrides: str) -> Trial:
    return load_workload(task, [*SMALL, *overrides]).trials()[0]


def test_arguments_of_every_kind_are_recorded_as_text(odd: str) -> None:
    task = first(odd).workload.task
    plain = {k: v for k, v in task.arguments.items() if k not in ("activation", "before")}
    assert plain == {
        "width": 64,
        "lr": 0.5,
        "where": "here",
        "mode": "PLAIN",
        "tags": ["a", "b", "c"],
        "after": "torch.relu",
        "options": {"rate": 0.5},
        "shape": [1, 2],
        "year": "2024",
        "untyped": "torch.nn.ReLU",
        "number": float("inf"),
    }
    assert task.arguments["activation"].endswith(".Squared")
    assert task.arguments["before"].endswith(".halved")
    assert set(task.defaults) == {"unnamed"}
    assert task.defaults["unnamed"].endswith(".MyTask.<lambda>")


def test_a_record_gives_the_same_arguments_again(odd: str) -> None:
    trial = first(odd, "--workload.task.mode=ODD", "--workload.task.where=there")
    again = Trial.from_record(json.loads(json.dumps(asdict(trial))))
    assert again.identity() == trial.identity()
    built = again.workload.task.build()
    (where, activation, mode, tags, before, after, options, shape, *rest) = built.given
    assert (where, mode.name, tags, shape) == (Path("there"), "ODD", {"a", "b", "c"}, (1, 2))
    assert (activation.__name__, before(3), after.__name__, options.rate) == (
        "Squared",
        1.5,
        "relu",
        0.5,
    )
    assert [rest[0], *rest[2:]] == ["2024", 3, float("inf")]


def test_ranks_build_what_was_recorded(odd: str) -> None:
    from paceline.benchmarks.trials.rank import run_rank

    trial = next(t for t in load_workload(odd, SMALL).trials() if t.label == "sync_sgd")
    prepared([trial])
    assert run_ranks(2, run_rank, trial)[0]["steps"] == 40


def test_an_argument_that_has_no_text_is_named(tmp_path: Path) -> None:
    head, _, tail = TEXT.partition("lr: float = 0.5")
    text = head + "lr: float = 0.5, scheme: Scheme | None = None" + tail
    scheme = (
        "class Scheme:\n    def __init__(self, x: int = 1):\n        pass\n\n\n"
        "def make(x: int = 1) -> Scheme:\n    return Scheme()\n\n\nclass MyTask"
    )
    path = tmp_path / "own.py"
    path.write_text(text.replace("class MyTask", scheme))
    benchmark = load_workload(f"{path}:MyTask", [])
    task = benchmark.workload.task
    made = task.cls.__init__.__globals__["Scheme"]()
    with pytest.raises(ConfigError) as error:
        task.given({"scheme": made}, "workload.task")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("workload.task.scheme: <own_own_")
    assert " cannot be recorded; " in str(error.value)
    assert "0x" not in str(error.value)


# Classes that take no arguments


BARE = TEXT.replace("self, rows: int = 1437", "self").replace(
    "self.rows = rows", "self.rows = 1437"
)
BARE = BARE.replace("(self, width: int = 64, lr: float = 0.5)", "(self)")
BARE = BARE.replace("self.lr = lr", "self.lr, width = 0.5, 64")
PLAINEST = BARE.replace(
    "    def __init__(self):\n        super().__init__()\n        self.rows = 1437\n\n",
    "    rows = 1437\n\n",
)


@pytest.mark.parametrize("text", [BARE, PLAINEST])
def test_classes_without_arguments_run(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bare.py"
    path.write_text(text)
    trials = load_workload(f"{path}:MyTask", SMALL).trials()
    assert prepared(trials).train_dataloader()
    assert trials[0].workload.task.arguments == trials[0].workload.data.arguments == {}
    section = f"data: {{class: '{path}:MyData'}}, task: {{class: '{path}:MyTask'}}"
    yaml = tmp_path / "bare.yaml"
    yaml.write_text(
        f"workload: {{{section}, target: {{loss: 1}}}}\n"
        "algorithms: {sync_sgd: }\nscale: {workers: [2]}"
    )
    assert load_benchmark(str(yaml), []).trials()


def test_an_argument_of_a_class_without_any_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "bare.py"
    path.write_text(BARE)
    with pytest.raises(ConfigError, match=r"unknown option --workload\.task\.width"):
        load_workload(f"{path}:MyTask", ["--workload.task.width=3"])
    section = f"data: {{class: '{path}:MyData', rows: 3}}, task: {{class: '{path}:MyTask'}}"
    yaml = tmp_path / "bare.yaml"
    yaml.write_text(f"workload: {{{section}, target: {{loss: 1}}}}\nalgorithms: {{sync_sgd: }}")
    with pytest.raises(ConfigError, match=r"unknown key 'workload\.data\.rows'"):
        load_benchmark(str(yaml), [])


# Packages that are called like folders of a checkout


USING = TEXT.replace(
    "import torch\n", "import torch\nfrom datasets import load_dataset\n", 1
).replace("x, y = load_digits(return_X_y=True)", "x, y = load_dataset('digits')")
STAND_IN = """
from sklearn.datasets import load_digits

def load_dataset(name):
    assert name == "digits"
    return load_digits(return_X_y=True)
"""


def test_an_installed_package_called_datasets_is_found_from_a_checkout_and_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "datasets").mkdir(parents=True)
    (site / "datasets" / "__init__.py").write_text(STAND_IN)
    file = tmp_path / "using.py"
    file.write_text(USING)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT / 'src'}")
    checkout = Checkout(tmp_path)
    checkout.yaml.write_text(
        f"workload: {{data: {{class: '{file}:MyData'}}, task: {{class: '{file}:MyTask'}},"
        " target: {loss: 1}, budget: {examples: 640, evaluations: 1}}\n"
        "algorithms: {baseline: }\nscale: {workers: [1], batch_size: 8}"
    )
    done = checkout.run()
    assert done.returncode == 0, done.stderr + done.stdout
    installed = checkout.run("--seeds=[1]", installed=True)
    assert installed.returncode == 0, installed.stderr + installed.stdout
    assert len(checkout.trials("FINISHED")) == 2
