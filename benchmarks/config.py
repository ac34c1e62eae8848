"""What a benchmark's YAML may say, and the trials that follow from it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from benchmarks.plugin import ConfigError, Plugin, nearest
from datasets.partition import Partition
from lightning_modules import find_algorithms

if TYPE_CHECKING:
    from lightning_modules.backend.algorithm import Algorithm
    from lightning_modules.backend.layout import Layout

FOLDER = Path(__file__).parent

Objective = Literal[
    "time_to_target_s", "modelled_time_to_target_s", "bytes_to_target", "final_loss", "churn"
]
Sampler = Literal["tpe", "nsga2", "random"]
Pruner = Literal["hyperband", "successive_halving", "none"]

Settings = TypeVar("Settings", Partition, "Budget")

# What the entry of an algorithm states beside its hyper-parameters.
BESIDE = ("algorithm", "workers", "partition", "budget")


def fingerprint(config: Any, facts: Mapping[str, Any]) -> str:
    """16 hex digits that stand for a dataclass under the given facts."""
    text = json.dumps([asdict(config), dict(facts)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Target:
    """The validation loss at which a trial counts as having reached its target."""

    loss: float


@dataclass(frozen=True)
class Budget:
    """How much a trial may train; whichever limit comes first ends it.

    Args:
        examples: training examples, over all workers.
        epochs: passes over the training set.
        evaluations: how often it is evaluated on the way, evenly spaced.
    """

    examples: int = 1_000_000
    epochs: float = 5
    evaluations: int = 20


@dataclass(frozen=True)
class Scale:
    """The sizes to run at.

    Args:
        workers: numbers of ranks.
        batch_size: examples a step, of each worker (weak) or of all together (strong).
        scaling: whether more workers take larger steps (weak) or share one of the same size (strong).
        zero_stage: the stage of ZeRO inside a replica, 0 to 3.
        threads: threads of a rank on the CPU.
        accelerator: `auto` takes the GPUs where there are any.
    """

    workers: list[int]
    batch_size: int = 256
    scaling: Literal["weak", "strong"] = "weak"
    zero_stage: Literal[0, 1, 2, 3] = 0
    threads: int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"


@dataclass(frozen=True)
class Fault:
    """What goes wrong on one rank, on purpose.

    Args:
        kind: nothing; its process is killed, or raises, after a step; or it is slow from then on.
        rank: the rank; trials with fewer workers have no fault.
        step: the first step, counted from 1, after which it shows.
        factor: of a slow rank, how many times as long its steps take.
    """

    kind: Literal["none", "kill", "raise", "slow"] = "none"
    rank: int = 0
    step: int = 1
    factor: float = 2.0

    def __post_init__(self) -> None:
        if self.rank < 0 or self.step < 1:
            raise ValueError(f"fault: no rank {self.rank} or step {self.step}; steps begin at 1")
        if not self.factor >= 1:
            raise ValueError(f"fault.factor must be at least 1, not {self.factor}")


@dataclass(frozen=True)
class Sweep:
    """How a benchmark is tuned: one study of the same budget for each algorithm at each scale.

    Args:
        algorithms: which of the benchmark's; all unless given.
        workers: the scales; those of the benchmark unless given.
        pool_workers: whether the number of workers is drawn like the rest, in one study an algorithm.
        batch_sizes: sizes of `scale.batch_size` to draw from.
        zero_stages: of `scale.zero_stage` likewise, where a replica has several ranks.
        only: the dimensions of the search spaces to draw; all unless given.
        trials: the budget of a study, the configuration of the YAML among them.
        objectives: what is minimised; of several, a Pareto front is sought.
        sampler: what draws the parameters.
        pruner: what gives up a trial by its loss so far; for one objective.
        tuning_seeds: each configuration is trained once on each of them.
        seeds: on which the tuned configuration is retrained; only those trials are scored.
    """

    algorithms: list[str] | None = None
    workers: list[int] | None = None
    pool_workers: bool = False
    batch_sizes: list[int] | None = None
    zero_stages: list[int] | None = None
    only: list[str] | None = None
    trials: int = 12
    objectives: list[Objective] = field(default_factory=lambda: ["time_to_target_s"])
    sampler: Sampler = "tpe"
    pruner: Pruner = "successive_halving"
    tuning_seeds: list[int] = field(default_factory=lambda: [0])
    seeds: list[int] = field(default_factory=lambda: [100, 101, 102])

    def __post_init__(self) -> None:
        if self.trials < 1 or not self.objectives or not self.tuning_seeds or not self.seeds:
            raise ValueError("sweep: trials, objectives, tuning_seeds and seeds must not be empty")
        if shared := sorted(set(self.tuning_seeds) & set(self.seeds)):
            raise ValueError(f"sweep.seeds: {shared} are tuned on; retrains need fresh seeds")
        if "churn" in self.objectives and len(self.tuning_seeds) < 2:
            raise ValueError("sweep.tuning_seeds: churn needs two seeds to compare")


@dataclass(frozen=True)
class Workload:
    """Data, model, target and budget: what every algorithm is given alike."""

    name: str
    data: Plugin
    task: Plugin
    target: Target
    budget: Budget

    def build_task(self, data: Any) -> Any:
        """The task, given what the data module provides of itself."""
        provided = getattr(data, "provides", ())
        return self.task.build(**{name: getattr(data, name) for name in provided})


@dataclass(frozen=True)
class Trial:
    """One training run, complete: whoever has this can run it again.

    Attributes:
        label: the algorithm's name in the benchmark, which may hold one algorithm twice with other
            hyper-parameters.
        batch_size: examples a rank takes at each step.
        partition: how the training examples are divided among the replicas.
        fault: what goes wrong on purpose.
    """

    benchmark: str
    workload: Workload
    label: str
    algorithm: str
    hyper_parameters: dict[str, Any]
    workers: int
    batch_size: int
    zero_stage: int
    threads: int
    accelerator: str
    seed: int
    partition: Partition = field(default_factory=Partition)
    fault: Fault = field(default_factory=Fault)

    @property
    def algorithm_class(self) -> "type[Algorithm]":
        return find_algorithms()[self.algorithm]

    @property
    def layout(self) -> "Layout":
        """How the workers are divided into replicas."""
        return self.algorithm_class.layout(self.workers, **self.hyper_parameters)

    @property
    def title(self) -> str:
        """What it is called on the terminal and in MLflow."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{self.label}, {workers}, seed {self.seed}"

    def identity(self, **facts: Any) -> str:
        """16 hex digits that stand for this trial under the given facts (code, data, hardware)."""
        return fingerprint(self, facts)

    @classmethod
    def from_record(cls, fields: dict[str, Any]) -> "Trial":
        """The trial that `dataclasses.asdict` made into `fields`."""
        workload = fields["workload"]
        return cls(
            **fields
            | {
                "workload": Workload(
                    name=workload["name"],
                    data=Plugin(**workload["data"]),
                    task=Plugin(**workload["task"]),
                    target=Target(**workload["target"]),
                    budget=Budget(**workload["budget"]),
                ),
                "partition": Partition(**fields["partition"]),
                "fault": Fault(**fields["fault"]),
            }
        )


@dataclass(frozen=True)
class Benchmark:
    """A workload, the algorithms to compare on it, the scales and the seeds."""

    name: str
    workload: Workload
    algorithms: dict[str, dict[str, Any]]
    scale: Scale
    seeds: list[int]
    partition: Partition = field(default_factory=Partition)
    fault: Fault = field(default_factory=Fault)
    sweep: Sweep = field(default_factory=Sweep)

    def identity(self, **facts: Any) -> str:
        """16 hex digits that stand for this benchmark under the given facts, however it is tuned."""
        return fingerprint(replace(self, sweep=Sweep()), facts)

    def trials(self) -> list[Trial]:
        """All trials, seed by seed, so that an interrupted benchmark has whole comparisons.

        Raises:
            ConfigError: an algorithm does not run on a number of workers that its own `workers` asks
                for, none runs at all, or a batch of that size cannot be divided among them.
        """
        left_out = self.left_out()
        found = [
            self.trial(label, workers, seed)
            for seed in self.seeds
            for label, entry in self.algorithms.items()
            for workers in entry["workers"] or self.scale.workers
            if (label, workers) not in left_out
        ]
        if not found:
            raise ConfigError(next(iter(left_out.values())))
        return found

    def left_out(self) -> dict[tuple[str, int], str]:
        """Why which algorithm does not run on which of `scale.workers`, where it states none itself."""
        reasons = {}
        for label, entry in self.algorithms.items():
            for workers in () if entry["workers"] else self.scale.workers:
                try:
                    self._check_layout(label, workers)
                except ConfigError as error:
                    reasons[label, workers] = str(error)
        return reasons

    def budget(self, label: str) -> Budget:
        """How much the trials of one algorithm may train: as all do, unless its entry says else."""
        return self.algorithms[label]["budget"] or self.workload.budget

    def _hyper_parameters(self, label: str) -> dict[str, Any]:
        return {k: v for k, v in self.algorithms[label].items() if k not in BESIDE}

    def _check_layout(self, label: str, workers: int) -> None:
        algorithm = find_algorithms()[self.algorithms[label]["algorithm"]]
        try:
            algorithm.layout(workers, **self._hyper_parameters(label))
        except ValueError as error:
            raise ConfigError(f"algorithms.{label}.workers: {error}") from error

    def trial(self, label: str, workers: int, seed: int) -> Trial:
        """The trial of one algorithm at one scale.

        Raises:
            ConfigError: as `trials`.
        """
        entry = self.algorithms[label]
        batch_size, left = self.scale.batch_size, 0
        if self.scale.scaling == "strong":
            batch_size, left = divmod(batch_size, workers)
        if left or batch_size < 1:
            raise ConfigError(
                f"scale.batch_size: {self.scale.batch_size} examples cannot be divided among"
                f" {workers} workers (scale.scaling is strong)"
            )
        self._check_layout(label, workers)
        return Trial(
            benchmark=self.name,
            workload=replace(self.workload, budget=self.budget(label)),
            label=label,
            algorithm=entry["algorithm"],
            hyper_parameters=self._hyper_parameters(label),
            workers=workers,
            batch_size=batch_size,
            zero_stage=self.scale.zero_stage,
            threads=self.scale.threads,
            accelerator=self.scale.accelerator,
            seed=seed,
            partition=entry["partition"] or self.partition,
            fault=self.fault if self.fault.rank < workers else Fault(),
        )


def shipped() -> dict[str, Path]:
    """The benchmarks in this folder, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find_benchmark(name: str) -> Path:
    """The file of a benchmark given by name or by path.

    Raises:
        ConfigError: there is none.
    """
    path = shipped().get(name, Path(name))
    if path.suffix and not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    if not path.is_file():
        hint = nearest(name, list(shipped()))
        raise ConfigError(f"no benchmark {name!r}{hint}; `list` shows them all")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a benchmark's file.

    Raises:
        ConfigError: the file cannot be read or is no mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a benchmark is a mapping, see `benchmarks/criteo.yaml`")
    return raw


def load_benchmark(name: str, overrides: list[str]) -> Benchmark:
    """Reads a benchmark and applies what the command line overrides.

    Args:
        name: of a shipped benchmark, or a path to a YAML file.
        overrides: `--scale.workers=[1,2]` and the like, any field of the file.

    Raises:
        ConfigError: in one line, which key of which file is wrong and what it could be instead.
    """
    path = find_benchmark(name)
    return _load(path, read_yaml(path), overrides)


def load_workload(task: str, overrides: list[str]) -> Benchmark:
    """The benchmark of a person's own file: every algorithm on 2 workers beside a baseline.

    Args:
        task: `path/to/file.py:Class`, what is trained; the file holds the data module as well. Its
            `target_loss`, if it has one, is the target; otherwise none is ever reached.
        overrides: as of `load_benchmark`.

    Raises:
        ConfigError: likewise.
    """
    from pytorch_lightning import LightningDataModule

    plugin = Plugin.named(task)
    if plugin.source is None:
        raise ConfigError(f"--workload is path/to/file.py:CLASS, not {task}")
    target = getattr(plugin.cls, "target_loss", 0.0)
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


def _load(path: Path, raw: dict[str, Any], overrides: list[str]) -> Benchmark:
    parser, classes, algorithms = _parser(path, raw)
    _refuse_unknown(path, raw, parser)
    try:
        where = f"{path}: "
        namespace = parser.parse_object(raw)
        where = ""
        namespace = parser.parse_args(overrides, namespace=namespace)
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(where + _readable(str(error), parser)) from error
    return _benchmark(path, namespace.as_dict(), classes, algorithms)


def _parser(
    path: Path, raw: dict[str, Any]
) -> tuple[ArgumentParser, dict[str, Plugin], dict[str, str]]:
    """A parser of every field that this benchmark may have, by the classes that it names.

    Returned beside it are the classes of the workload, and the algorithms by their labels.
    """
    from benchmarks.suitable import check_classes  # which needs a `Workload`

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
    known, algorithms = find_algorithms(), {}
    for label, entry in _mapping(path, "algorithms", raw.get("algorithms") or {}).items():
        entry = raw["algorithms"][label] = _mapping(path, f"algorithms.{label}", entry or {}).copy()
        algorithms[label] = algorithm = entry.pop("algorithm", label)
        if algorithm not in known:
            raise ConfigError(
                f"{path}: no algorithm {algorithm!r}{nearest(algorithm, list(known))};"
                f" there are {', '.join(known)}"
            )
        parser.add_class_arguments(known[algorithm], f"algorithms.{label}", skip={"task"})
        parser.add_argument(f"--algorithms.{label}.workers", type=list[int] | None, default=None)
        for own in (Partition, Budget):
            for name, kind in get_type_hints(own).items():
                place = f"--algorithms.{label}.{own.__name__.lower()}.{name}"
                parser.add_argument(place, type=kind | None, default=None)
    return parser, {"data": data, "task": task}, algorithms


def _benchmark(
    path: Path, values: dict[str, Any], classes: dict[str, Plugin], names: dict[str, str]
) -> Benchmark:
    workload = values["workload"]
    algorithms = {
        label: {"algorithm": names[label], **entry}
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
    benchmark = Benchmark(
        name=values["name"],
        workload=Workload(
            name=workload["name"],
            data=replace(classes["data"], arguments=workload.get("data", {})),
            task=replace(classes["task"], arguments=workload.get("task", {})),
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
    """What an algorithm's entry states, the rest as all have it; None where it states nothing."""
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
        "scale.workers": min(scale.workers, default=0),
        "seeds (how many)": len(benchmark.seeds),
    }
    for place, value in quantities.items():
        if not value > 0:
            raise ConfigError(f"{path}: {place} must be positive, not {value}")


def _fields(parser: ArgumentParser) -> list[str]:
    return [a.dest for a in parser._actions if a.option_strings and "help" not in a.dest]


def _refuse_unknown(path: Path, raw: dict[str, Any], parser: ArgumentParser) -> None:
    fields = _fields(parser)
    groups = {field.rsplit(".", i)[0] for field in fields for i in range(1, field.count(".") + 1)}

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
    """jsonargparse's message in one line, with the nearest option where one is unknown."""
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", message)
    if unknown:
        return f"unknown option --{unknown[1]}{nearest(unknown[1], _fields(parser), '--')}"
    line = re.sub(r"<class '(\w+)'>|typing\.(?=Literal)", r"\1", " ".join(message.split()))
    # A setting that may be left out is of a type or None, of which nobody has to be told.
    line = re.sub(
        r"Does not validate .* - (Expected .*?)(\. Got .*)? - Expected (a )?NoneType .* value: (.*)",
        r"\1. Got value: \4",
        line,
    )
    return re.sub(r'Parser key "([^"]+)":', r"\1:", line)
