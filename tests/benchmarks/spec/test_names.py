"""Names of benchmarks, labels of algorithms, and numbers: accepted, or told in one line."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from paceline.benchmarks.cli.tables import table
from paceline.benchmarks.spec.plugin import ConfigError
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.trials.display import console
from paceline.benchmarks.trials.store import open_store
from paceline.benchmarks.trials.tracking import BenchmarkRun
from paceline.reports import pdf
from tests.report_store import ENVIRONMENT, SYNTHETIC, benchmark, fill

YAML = """
workload:
  data: {class: "tests.workload:LinearRule"}
  task: {class: "tests.workload:Tower"}
  target: {loss: 0.5}
algorithms:
  %s: {algorithm: model_averaging, tau: 1}
  model_averaging: {tau: 3}
scale: {workers: [2]}
"""
LABELS = [
    "diloco_0.7",
    "tau-10",
    "α=0.5",
    "sync [tau=5]",
    "[/x]",
    "it's",
    'a "quoted" one',
    "a/b",
    "平均化",
    "label_0",
    "workers",
    "model_averaging.tau",
    "x: y",
]


def written(folder: Path, label: str) -> str:
    path = folder / "mine.yaml"
    quoted = "'" + label.replace("'", "''") + "'"
    path.write_text(YAML % quoted, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("label", LABELS)
def test_a_label_may_hold_what_can_be_printed(tmp_path: Path, label: str) -> None:
    path = written(tmp_path, label)
    override = f"--algorithms.{label}.tau=7"
    trials = load_benchmark(path, [override, f"--algorithms.{label}.workers=[4]"]).trials()
    assert [(t.label, t.workers, t.hyper_parameters["tau"]) for t in trials] == [
        (label, 4, 7),
        ("model_averaging", 2, 3),
    ]
    with pytest.raises(ConfigError) as error:
        load_benchmark(path, [f"--algorithms.{label}.tau=many"])
    assert str(error.value) == f"algorithms.{label}.tau: Expected a int. Got value: many"
    with pytest.raises(ConfigError) as error:
        load_benchmark(path, [f"--algorithms.{label}.workers=[]"])
    assert (
        str(error.value) == f"{path}: algorithms.{label}.workers is empty; give at least one number"
    )


@pytest.mark.parametrize("label", ["", " ", "a ", "a\nb", "a\x1b[31m", "x" * 101])
def test_a_label_that_cannot_be_shown_is_refused(tmp_path: Path, label: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(YAML % f'"{label.encode("unicode_escape").decode()}"')
    with pytest.raises(
        ConfigError, match="is no name; give 1 to 100 printable characters"
    ) as error:
        load_benchmark(str(path), [])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", ["no", "1", "null", "2024-01-01"])
def test_a_label_that_yaml_takes_for_something_else_wants_quotes(
    tmp_path: Path, label: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(YAML % label)
    with pytest.raises(ConfigError, match="put it in quotes"):
        load_benchmark(str(path), [])


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", ".", "..", ".x", "a\\b", "", "a\nb"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_benchmark(written(tmp_path, "x"), [f"--name={name}"])
    assert ": name: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["it's", "[/x]", "a.b", "tau-10", "平均", "100 %", "a#b?c", "x: y"]
)
def test_a_benchmark_of_any_name_is_stored_drawn_and_found_again(tmp_path: Path, name: str) -> None:
    client = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    plan = benchmark(name, {"model_averaging [/x]": [2], "sync_sgd it's": [2]}, [0])
    results = fill(client, plan, lambda _: [0.9, 0.4])
    assert (tmp_path / "mlartifacts" / name).is_dir()
    with console.capture() as shown:
        console.print(table(results))
    assert name in shown.get()
    assert "model_averaging [/x]" in shown.get()
    for run_id in results.trials["run_id"]:
        assert run_id[:8] in shown.get()
    (drawn, *_) = pdf.write(results, tmp_path / f"{name}.pdf")
    assert drawn.read_bytes().startswith(b"%PDF")
    about = {"data": SYNTHETIC, "environment": ENVIRONMENT}
    again = BenchmarkRun(client, name, plan.identity(), about)
    study = again.nested(f'{name}: it\'s "so" (0123)', "title")
    assert again.nested(f'{name}: it\'s "so" (0123)', "title") == study
    assert again.run_id == results.run_id


# Keys of a YAML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "algorithms:\n  a: {tau: 10}\n  b:\n  a: {tau: 50}\n",
            "'a' stands twice, in lines 2 and 4",
        ),
        ("algorithms:\n  a:\n    tau: 10\n    tau: 20\n", "'tau' stands twice, in lines 3 and 4"),
        ("name: x\nscale: {workers: [2]}\nname: y\n", "'name' stands twice, in lines 1 and 3"),
        (
            "scale: {batch_size: 1, 'batch_size': 2}\n",
            "'batch_size' stands twice, in lines 1 and 1",
        ),
        ("seeds: [{a: 1, a: 2}]\n", "'a' stands twice, in lines 1 and 1"),
    ],
)
def test_a_key_that_stands_twice_is_told_with_both_lines(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_benchmark(str(path), [])
    assert str(error.value) == f"{path}: {message}"


def test_a_mapping_that_is_merged_into_another_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    body = YAML % "x"
    path.write_text(body.replace("{tau: 3}", "{<<: &a {tau: 3}, tau: 4}"))
    trial = load_benchmark(str(path), []).trials()[1]
    assert trial.hyper_parameters["tau"] == 4


# Numbers of workers


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("scale.workers=[0]", "scale.workers must be positive, not 0"),
        ("scale.workers=[]", "scale.workers is empty; give at least one number"),
        ("scale.workers=[2,-2]", "scale.workers must be positive, not -2"),
        ("scale.workers=[1.5]", "scale.workers: Expected a int. Got value: 1.5"),
        ("scale.workers=[true]", "scale.workers: Expected a int. Got value: True"),
        ("algorithms.x.workers=[0]", "algorithms.x.workers must be positive, not 0"),
        ("algorithms.x.workers=[]", "algorithms.x.workers is empty; give at least one number"),
        ("algorithms.x.workers=[-2]", "algorithms.x.workers must be positive, not -2"),
        ("sweep.workers=[]", "sweep.workers is empty; give at least one number"),
        ("sweep.batch_sizes=[8,0]", "sweep.batch_sizes must be positive, not 0"),
        ("sweep.zero_stages=[4]", "sweep.zero_stages: [4] must be among 0, 1, 2 and 3"),
    ],
)
def test_a_number_of_workers_that_there_cannot_be(
    tmp_path: Path, option: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_benchmark(written(tmp_path, "x"), [f"--{option}"])
    assert str(error.value).endswith(message)


def test_a_filter_of_mlflow_is_never_given_a_name(tmp_path: Path) -> None:
    """A name with both kinds of quotes fits into none."""
    client: MlflowClient = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    results = fill(
        client, benchmark("""it's a "name" """.strip(), {"sync_sgd": [2]}, [0]), lambda _: [0.4]
    )
    assert list(results.trials["status"]) == ["FINISHED"]
