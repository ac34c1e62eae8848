"""Options of the command line: where they may stand, what they pick, and what help tells of them."""

from pathlib import Path

import pytest

from paceline.benchmarks.cli import commands
from paceline.benchmarks.cli.main import main
from paceline.benchmarks.spec.benchmark import Benchmark
from paceline.benchmarks.trials import display
from paceline.benchmarks.trials.display import TerminalDisplay, console

YAML = """
workload:
  data: {class: "tests.workload:LinearRule"}
  task: {class: "tests.workload:Tower"}
  target: {loss: 0.4}
algorithms:
  baseline: {workers: [1]}
  sync_sgd:
  often [tau=2]: {algorithm: model_averaging, tau: 2}
  large: {algorithm: sync_sgd, workers: [3, 4]}
scale: {workers: [2, 4], batch_size: 10}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def asked(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command as far as its benchmark and gives that, with the options."""

    def ask(*arguments: str) -> tuple[Benchmark, dict[str, object]]:
        seen = []

        def run(options) -> int:
            seen.append((commands._benchmark(options), vars(options)))
            return 0

        monkeypatch.setattr(commands, "run", run)
        assert main(list(arguments)) == 0
        return seen[0]

    return ask


def cells(benchmark: Benchmark) -> list[tuple[str, int]]:
    return [(trial.label, trial.workers) for trial in benchmark.trials()]


def test_some_algorithms_and_scales_are_picked(asked) -> None:
    benchmark, _ = asked("run", "small.yaml", "--only", "sync_sgd", "--workers", "2")
    assert cells(benchmark) == [("sync_sgd", 2)]
    benchmark, _ = asked("run", "small.yaml", "--only=often [tau=2],baseline", "--workers=2,3")
    assert cells(benchmark) == [("baseline", 1), ("often [tau=2]", 2), ("often [tau=2]", 3)]


def test_an_algorithm_with_numbers_of_workers_of_its_own_is_picked_on_those_of_them(asked) -> None:
    benchmark, _ = asked("run", "small.yaml", "--only=large,baseline", "--workers=1,4")
    assert cells(benchmark) == [("baseline", 1), ("large", 4)]
    benchmark, _ = asked("run", "small.yaml", "--only=large,sync_sgd", "--workers=2")
    assert cells(benchmark) == [("sync_sgd", 2)]


def test_what_is_picked_are_the_trials_of_the_whole(asked) -> None:
    whole, _ = asked("run", "small.yaml")
    picked, _ = asked("run", "small.yaml", "--only=sync_sgd", "--workers=4")
    assert {t.identity() for t in picked.trials()} < {t.identity() for t in whole.trials()}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--only=sync_sdg",
            "--only: no 'sync_sdg' in small; did you mean 'sync_sgd'?; there are baseline, sync_sgd,"
            " often [tau=2], large",
        ),
        ("--only=large --workers=2", "--workers: no algorithm of small runs on 2 workers"),
        ("--workers=0", "scale.workers must be positive, not 0"),
        ("--workers=two", "scale.workers: Expected a int. Got value: two"),
    ],
)
def test_what_cannot_be_picked_is_told(folder: Path, capsys, option: str, message: str) -> None:
    assert main(["run", "small.yaml", *option.split()]) == 2
    assert capsys.readouterr().err.endswith(f"{message}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--store", "sqlite:///x.db", "run", "small.yaml", "--link=lan-10g"),
        ("run", "small.yaml", "--link=lan-10g", "--store", "sqlite:///x.db"),
        ("--link=lan-10g", "--store=sqlite:///x.db", "run", "small.yaml"),
        ("run", "--store=sqlite:///x.db", "--link", "lan-10g", "small.yaml"),
    ],
)
def test_options_may_stand_before_or_behind_the_command(asked, arguments: tuple[str, ...]) -> None:
    from paceline.reports.measures.link import PRESETS

    link = sorted(PRESETS)[0]
    _, options = asked(*(a.replace("lan-10g", link) for a in arguments))
    assert options["store"] == "sqlite:///x.db"
    assert options["link"] == link


def test_help_lists_the_fields_of_a_benchmark(folder: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "small.yaml", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for line in (
        "--scale.batch_size",
        "--workload.task.lr",
        "--workload.data.rows",
        "--algorithms.often [tau=2].tau",
        "--sweep.trials",
        "--partition.kind",
    ):
        assert line in shown
    assert "examples a step, of each worker" in shown
    assert "Namespace" not in shown
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    assert "--scale.batch_size" not in capsys.readouterr().out


# Where a run is, without a terminal


def test_a_line_every_so_often_says_where_a_run_is_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    shown = TerminalDisplay(console)
    shown.trial("one", 0, 2)
    for step in range(101):
        now[0] += 1
        shown.progress(step, 200, 0.5 if step else None)
    shown.ended("one", "done")
    now[0] += 99
    shown.trial("two", 1, 2)
    now[0] += 50
    shown.progress(50, 200, None)
    assert capsys.readouterr().out.splitlines() == [
        "[1/2] one ...",
        "[1/2] one: step 29 of 200, loss 0.5000; about 3 min left of it, 6 min of all",
        "[1/2] one: step 59 of 200, loss 0.5000; about 2 min left of it, 6 min of all",
        "[1/2] one: step 89 of 200, loss 0.5000; about 2 min left of it, 5 min of all",
        "one: done",
        "[2/2] two ...",
        "[2/2] two: step 50 of 200; about 2 min left of it, 2 min of all",
    ]
