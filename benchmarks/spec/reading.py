"""Reads a benchmark from a YAML file or a user's own task, and applies the overrides."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning import LightningDataModule

from paceline.benchmarks.spec.algorithms import Named, algorithm_class, named, with_classes
from paceline.benchmarks.spec.benchmark import Benchmark
from paceline.benchmarks.spec.labels import Labels, check_file_name
from paceline.benchmarks.spec.plugin import ConfigError, Plugin, nearest
from paceline.benchmarks.spec.settings import Budget, Fault, Scale, Sweep, Target
from paceline.benchmarks.spec.shipped import find_benchmark, read_yaml
from paceline.benchmarks.spec.suitable import check_classes
from paceline.benchmarks.spec.workload import Workload
from paceline.datasets.partition import Partition
from paceline.lightning_modules import find_algorithms

Settings = TypeVar("Settings", Partition, Budget)


def load_benchmark(name: str, overrides: list[str]) -> Benchmark:
    """Reads a benchmark and applies the overrides of the command line.

    Args:
        name: the name of a shipped benchmark or the path of a YAML file.
        overrides: options that override fields of the file, for example `--scale.workers=[1,2]`.

    Raises:
        ConfigError: if a key or a value is wrong. The message is one line with the file, the key and a
            possible correction.
    """
    path = find_benchmark(name)
    return _load(path, read_yaml(path), overrides)


def load_workload(task: str, overrides: list[str]) -> Benchmark:
    """Returns a benchmark of a user's own task: every algorithm on 2 workers and a baseline on 1.

    Args:
        task: the class of the task as `path/to/file.py:Class`. The file also contains the data module. If
            the class has a `target_loss`, this is the target; otherwise there is no target.
        overrides: options that override fields, as in `load_benchmark`.

    Raises:
        ConfigError: if the file, a class or an override is wrong, in one line as in `load_benchmark`.
    """
    plugin = Plugin.named(task)
    if plugin.source is None:
        raise ConfigError(f"--workload is path/to/file.py:CLASS, not {task}")
    target = getattr(plugin.cls, "target_loss", None)
    rivals: dict[str, Any] = {name: {} for name in find_algorithms() if name != "baseline"}
    raw = {
        "workload": {
            "data": {"class": plugin.beside(LightningDataModule).name},
            "task": {"class": plugin.name},
            "target": {"loss": target},
            "budget": {"examples": 300_000, "epochs": 10, "evaluations": 10},
        },
        "algorithms": {"baseline": {"workers": [1]}, **rivals},
        "scale": {"workers": [2], "batch_size": 32},
    }
    return _load(Path(plugin.place), raw, overrides)


def fields(name: str) -> list[tuple[str, Any, str]]:
    """Returns every field of a benchmark as (option, value, description).

    Args:
        name: the name of a shipped benchmark or the path of a YAML file.

    Raises:
        ConfigError: if a key or a value is wrong, in one line as in `load_benchmark`.
    """
    path = find_benchmark(name)
    raw, labels = _with_keys(path, read_yaml(path))
    parser, _, _ = _parser(path, raw, labels)
    _refuse_unknown(path, raw, parser)
    values = parser.parse_object(raw)
    actions = {action.dest: action for action in parser._actions}
    names = _fields(parser)
    return [
        (labels.message(f"--{field}"), values.get(field), _help_of(actions[field]))
        for field in names
        if not any(name.startswith(f"{field}.") for name in names)  # otherwise it is a section
    ]


def _help_of(action: Any) -> str:
    text = " ".join(str(action.help or "").split())
    return "" if text == "==SUPPRESS==" else text.partition(" (type:")[0]


def _with_keys(path: Path, raw: dict[str, Any]) -> tuple[dict[str, Any], Labels]:
    """Returns the content of a YAML with keys in place of the algorithms' labels, and the labels."""
    stated = _mapping(path, "algorithms", raw.get("algorithms") or {})
    labels = Labels.of(stated, f"{path}: algorithms")
    entries = {labels.keys[label]: entry for label, entry in stated.items()}
    return raw | {"algorithms": entries}, labels


def _load(path: Path, raw: dict[str, Any], overrides: list[str]) -> Benchmark:
    stated = _mapping(path, "algorithms", raw.get("algorithms") or {})
    stated, overrides = with_classes(stated, overrides)
    raw, labels = _with_keys(path, raw | {"algorithms": stated})
    overrides = [labels.override(option) for option in overrides]
    where = f"{path}: "
    try:
        parser, classes, algorithms = _parser(path, raw, labels)
        _refuse_unknown(path, raw, parser)
        namespace = parser.parse_object(raw)
        where = ""
        namespace = parser.parse_args(_emptied(overrides, parser), namespace=namespace)
    except ConfigError as error:
        raise ConfigError(labels.message(str(error))) from error
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(where + labels.message(_readable(str(error), parser))) from error
    values = namespace.as_dict()
    entries = values.get("algorithms", {})
    values["algorithms"] = {label: entries[key] for label, key in labels.keys.items()}
    return _benchmark(path, values, classes, algorithms)


def _parser(
    path: Path, raw: dict[str, Any], labels: Labels
) -> tuple[ArgumentParser, dict[str, Plugin], dict[str, Named]]:
    """Returns a parser of every field that this benchmark may have, according to the classes it names.

    It also returns the classes of the workload, and the names of the algorithms by their labels.
    """

    def plugin(section: Any, key: str, place: str) -> Plugin:
        name = section.pop(key, None) if isinstance(section, dict) else None
        if not isinstance(name, str):
            raise ConfigError(f"{path}: {place}.{key} is missing, a class as `module:Class`")
        return Plugin.named(name)

    workload = raw.get("workload")
    if not isinstance(workload, dict):
        raise ConfigError(f"{path}: workload is missing")
    data = plugin(workload.get("data"), "class", "workload.data")
    task = plugin(workload.get("task"), "class", "workload.task")
    check_classes(data, task)
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--name", type=str, default=path.stem)
    parser.add_argument("--workload.name", type=str, default=path.stem)
    parser.add_class_arguments(data.cls, "workload.data", fail_untyped=False)
    given = set(getattr(data.cls, "provides", ()))
    parser.add_class_arguments(task.cls, "workload.task", skip=given, fail_untyped=False)
    parser.add_class_arguments(Target, "workload.target")
    parser.add_class_arguments(Budget, "workload.budget")
    parser.add_class_arguments(Scale, "scale")
    parser.add_argument("--seeds", type=list[int], default=[0])
    parser.add_class_arguments(Partition, "partition")
    parser.add_class_arguments(Fault, "fault")
    parser.add_class_arguments(Sweep, "sweep")
    algorithms = {}
    for label, key in labels.keys.items():
        entry = _mapping(path, f"algorithms.{key}", raw["algorithms"][key] or {}).copy()
        raw["algorithms"][key] = entry
        algorithms[label] = named(label, entry, str(path))
        cls = algorithm_class(*algorithms[label])
        parser.add_class_arguments(cls, f"algorithms.{key}", skip={"task"})
        parser.add_argument(f"--algorithms.{key}.workers", type=list[int] | None, default=None)
        for own in (Partition, Budget):
            for name, kind in get_type_hints(own).items():
                place = f"--algorithms.{key}.{own.__name__.lower()}.{name}"
                parser.add_argument(place, type=kind | None, default=None)
    return parser, {"data": data, "task": task}, algorithms


def _benchmark(
    path: Path, values: dict[str, Any], classes: dict[str, Plugin], names: dict[str, Named]
) -> Benchmark:
    workload = values["workload"]
    algorithms = {
        label: dict(zip(("algorithm", "class"), names[label], strict=True)) | entry
        for label, entry in values.get("algorithms", {}).items()
    }
    if not algorithms:
        raise ConfigError(
            f"{path}: algorithms is missing; there are {', '.join(find_algorithms())}"
        )
    budget = Budget(**workload["budget"])
    try:
        partition = Partition(**values["partition"])
        for entry in algorithms.values():
            entry["partition"] = _own(partition, entry["partition"])
            entry["budget"] = _own(budget, entry["budget"])
        fault = Fault(**values["fault"])
        sweep = Sweep(**values["sweep"])
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    check_file_name(values["name"], f"{path}: name")
    benchmark = Benchmark(
        name=values["name"],
        workload=Workload(
            name=workload["name"],
            data=classes["data"].given(workload.get("data") or {}, "workload.data"),
            task=classes["task"].given(workload.get("task") or {}, "workload.task"),
            target=Target(**workload["target"]),
            budget=budget,
        ),
        algorithms=algorithms,
        scale=Scale(**values["scale"]),
        seeds=values["seeds"],
        partition=partition,
        fault=fault,
        sweep=sweep,
    )
    _check_positive(path, benchmark)
    return benchmark


def _own(general: Settings, stated: dict[str, Any]) -> Settings | None:
    """Returns the general settings with the values of an algorithm's entry, or None if it has none."""
    stated = {name: value for name, value in stated.items() if value is not None}
    return replace(general, **stated) if stated else None


def _check_positive(path: Path, benchmark: Benchmark) -> None:
    scale, budgets = benchmark.scale, {"workload.budget": benchmark.workload.budget}
    for label in benchmark.algorithms:
        budgets[f"algorithms.{label}.budget"] = benchmark.budget(label)
    quantities = {
        **{f"{place}.{k}": v for place, own in budgets.items() for k, v in asdict(own).items()},
        "scale.batch_size": scale.batch_size,
        "scale.threads": scale.threads,
        "scale.accumulate": scale.accumulate,
        "scale.clip_norm": 1.0 if scale.clip_norm is None else scale.clip_norm,
        "seeds (how many)": len(benchmark.seeds),
    }
    lists = {"scale.workers": scale.workers}
    lists |= {f"algorithms.{k}.workers": v["workers"] for k, v in benchmark.algorithms.items()}
    lists |= {f"sweep.{k}": getattr(benchmark.sweep, k) for k in ("workers", "batch_sizes")}
    for place, numbers in lists.items():
        if numbers == []:
            raise ConfigError(f"{path}: {place} is empty; give at least one number")
        quantities[place] = min(numbers or [1])
    for place, value in quantities.items():
        if not value > 0:
            raise ConfigError(f"{path}: {place} must be positive, not {value}")


def _emptied(overrides: list[str], parser: ArgumentParser) -> list[str]:
    """Returns the overrides, where `--FIELD=` becomes null if the field may have no value."""
    may_have_none = {
        f"--{a.dest}=" for a in parser._actions if a.default is None and not a.required
    }
    return [f"{text}null" if text in may_have_none else text for text in overrides]


def _fields(parser: ArgumentParser) -> list[str]:
    return [a.dest for a in parser._actions if a.option_strings and "help" not in a.dest]


def _refuse_unknown(path: Path, raw: dict[str, Any], parser: ArgumentParser) -> None:
    fields = _fields(parser)
    groups = {field.rsplit(".", i)[0] for field in fields for i in range(1, field.count(".") + 1)}
    groups |= {"workload.data", "workload.task"}  # their classes may take no arguments

    def walk(section: dict[str, Any], prefix: str) -> None:
        for key, value in section.items():
            place = f"{prefix}{key}"
            if place in groups:
                walk(_mapping(path, place, value), f"{place}.")
            elif place not in fields:
                siblings = {
                    name[len(prefix) :].split(".")[0]
                    for name in [*fields, *groups]
                    if name.startswith(prefix)
                }
                raise ConfigError(f"{path}: unknown key {place!r}{nearest(key, siblings)}")

    walk(raw, "")


def _mapping(path: Path, place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {place} is a mapping, not {value!r}")
    return value


def _readable(message: str, parser: ArgumentParser) -> str:
    """Returns jsonargparse's message in one line, with the nearest option if an option is unknown."""
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", message)
    if unknown:
        return f"unknown option --{unknown[1]}{nearest(unknown[1], _fields(parser), '--')}"
    line = re.sub(r"<class '(\w+)'>|typing\.(?=Literal)", r"\1", " ".join(message.split()))
    # The type of an optional setting is a union with None. The message leaves the None out.
    line = re.sub(
        r"Does not validate .* - (Expected .*?)(\. Got .*)? - Expected (a )?NoneType .* value: (.*)",
        r"\1. Got value: \4",
        line,
    )
    return re.sub(r'Parser key "([^"]+)":', r"\1:", line)
