"""The rehearsal before the first trial: what it tells, what it leaves out and what it remembers."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from paceline.benchmarks.cli.main import main
from paceline.benchmarks.trials.rehearsal import RehearsalFailed, passed, shortened
from paceline.benchmarks.trials.runner import Outcome, run
from paceline.benchmarks.trials.store import open_store
from paceline.reports.measures.results import search
from tests.cases import CASES, SETTINGS
from tests.own_workload import SMALL, TEXT, load

FORWARD = "    def forward(self, batch):\n"
ONE = ("--algorithms.sync_sgd.workers=[2]", "--workload.budget.evaluations=1")
NO_GRADIENT = (
    "ValueError: parameters without a gradient at a step: ZeRO 0 only: spare.weight, spare.bias;"
    " set scale.zero_stage to 0"
)


class Notes:
    """A display that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def trial(self, *_: object) -> None: ...

    def progress(self, *_: object) -> None: ...

    def ended(self, *_: object) -> None: ...

    @property
    def rehearsals(self) -> list[str]:
        return [note for note in self.notes if "rehearsal" in note]


class Own:
    """The example with changes, in a folder with a store and a memory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "my_model.py"
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"

    def write(self, *changes: tuple[str, str]) -> str:
        text = TEXT
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        self.file.write_text(text)
        return f"{self.file}:MyTask"

    def line(self, text: str) -> int:
        return next(
            n for n, line in enumerate(self.file.read_text().splitlines(), 1) if text in line
        )

    @property
    def client(self) -> MlflowClient:
        return open_store(self.uri)

    def run(self, task: str, *overrides: str, keep_going: bool = False) -> tuple[Notes, Outcome]:
        shown = Notes()
        benchmark = load(task, *SMALL, *ONE, *overrides).only(["sync_sgd"])
        try:
            return shown, run(benchmark, self.client, shown, keep_going)
        finally:
            self.shown = shown


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    return Own(tmp_path)


def test_what_passed_is_remembered_and_what_is_finished_is_not_rehearsed(own: Own) -> None:
    task = own.write()
    shown, outcome = own.run(task)
    (line,) = shown.rehearsals
    assert line.startswith("rehearsal 1/1: sync_sgd, 2 workers: passed in ")
    assert outcome == Outcome(found=0, ran=1, failed=0)
    assert len(passed()) == 1
    # Another seed, budget or target needs no new rehearsal; another learning rate does.
    shown, outcome = own.run(task, "--seeds=[0,1]", "--workload.target.loss=1")
    assert not shown.rehearsals
    assert (outcome.found, outcome.ran) == (1, 1)  # another target changes no trial
    (own.folder / ".cache" / "rehearsed").unlink()
    shown, outcome = own.run(task)
    assert not shown.rehearsals
    assert outcome.found == 1
    shown, _ = own.run(task, "--workload.task.lr=0.3")
    assert len(shown.rehearsals) == 1


@pytest.mark.parametrize(
    ("change", "stage", "reason", "where"),
    [
        (
            (FORWARD, f"{FORWARD}        assert not self.training, 'only when training'\n"),
            0,
            "raised AssertionError: only when training",
            "only when training",
        ),
        (
            ("        self.network =", "        self.spare = nn.Linear(3, 2)\n        self.network ="),
            1,
            NO_GRADIENT,
            "",
        ),
    ],
    ids=["training", "gradient"],
)  # fmt: skip
def test_what_would_fail_every_trial_is_told_in_one_line_and_nothing_is_stored(
    own: Own, change: tuple[str, str], stage: int, reason: str, where: str
) -> None:
    task = own.write(change)
    with pytest.raises(RehearsalFailed, match="1 of 1 configurations failed in the rehearsal"):
        own.run(task, f"--scale.zero_stage={stage}")
    (line,) = own.shown.rehearsals
    assert line.startswith("rehearsal 1/1: sync_sgd, 2 workers: rank ")
    assert reason in line
    assert "\n" not in line
    if where:
        assert line.endswith(f"(my_model.py, line {own.line(where)})")
    assert own.client.get_experiment_by_name("my_model") is None
    assert not passed()


def test_with_keep_going_the_others_run(own: Own, capfd: pytest.CaptureFixture[str]) -> None:
    breaking = (
        "        import os; assert not self.training or os.environ['WORLD_SIZE'] == '1', 'two'\n"
    )
    task = own.write((FORWARD, FORWARD + breaking))
    command = ["run", "--workload", task, f"--store={own.uri}", "--only=baseline,sync_sgd", *SMALL]
    command += [ONE[1], f"--report={own.folder / 'r.pdf'}"]
    assert main(command) == 1
    shown, errors = capfd.readouterr()
    assert "sync_sgd, 2 workers: rank" in shown
    assert errors.endswith(
        "error: 1 of 2 configurations failed in the rehearsal, so no trial has run; the reasons are"
        " above; --keep-going leaves them out and runs the others\n"
    )
    assert own.client.get_experiment_by_name("my_model") is None
    assert main([*command, "--keep-going"]) == 1
    shown, _ = capfd.readouterr()
    assert "left out: rehearsal 1/1: sync_sgd, 2 workers: rank" in shown
    assert "trials left out after the rehearsal: 1" in shown
    (ran,) = search(own.client, "my_model", paceline__kind="trial")
    assert (ran.info.run_name, ran.info.status) == ("baseline, 1 worker, seed 0", "FINISHED")


def test_a_metric_that_is_undefined_on_the_first_rows_stops_nothing(own: Own) -> None:
    """The validation rows are sorted, so the first rows are of one class."""
    auroc = """class Auroc(BinaryAUROC):
    def update(self, predictions, labels):
        super().update(predictions[:, 1], labels)


class MyTask(Task):"""
    task = own.write(
        ("import MulticlassAccuracy", "import BinaryAUROC"),
        ("torch.tensor(y)", "torch.tensor(y > 4).long()"),
        ("part[1437:]", "part[1437:][examples[1][1437:].argsort()]"),
        ('MulticlassAccuracy(10, average="micro")', "Auroc()"),
        ("class MyTask(Task):", auroc),
    )
    shown, outcome = own.run(task)
    assert "validation metric is undefined" in shown.rehearsals[0]
    assert outcome == Outcome(found=0, ran=1, failed=0)


def test_without_a_place_for_the_memory_the_command_goes_on(own: Own) -> None:
    (own.folder / ".cache").write_text("no folder")
    shown, outcome = own.run(own.write())
    assert "passed" in shown.rehearsals[0]
    assert outcome.failed == 0
    assert not passed()


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_period_fits_into_two_steps(name: str) -> None:
    trial = next(case for case in CASES if case.algorithm == name).trial()
    short = shortened(trial)
    assert short.workload.budget.examples == 2 * trial.batch_size * trial.workers
    for period in SETTINGS[name]:
        if isinstance(SETTINGS[name][period], int):
            assert short.hyper_parameters[period] == 1
