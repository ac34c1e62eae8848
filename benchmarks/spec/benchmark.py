"""A benchmark, its workload and the trials that follow from them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.benchmarks.spec.plugin import ConfigError, Plugin, nearest
from paceline.benchmarks.spec.settings import Budget, Fault, Scale, Sweep, Target
from paceline.datasets.partition import Partition
from paceline.lightning_modules import find_algorithms

if TYPE_CHECKING:
    from paceline.lightning_modules.backend.algorithm import Algorithm
    from paceline.lightning_modules.backend.layout import Layout

# What the entry of an algorithm states beside its hyper-parameters.
BESIDE = ("algorithm", "workers", "partition", "budget")


def fingerprint(config: Any, facts: Mapping[str, Any]) -> str:
    """16 hex digits that stand for a dataclass under the given facts, wherever its files lie."""
    text = json.dumps([_without_folders(asdict(config)), dict(facts)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_folders(value: Any) -> Any:
    """The fields of a dataclass with a class of a file called by the file's name, as its text counts."""
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    if not isinstance(value, dict):
        return value
    short = {"name": Path(value["name"]).name} if value.get("source") is not None else {}
    return {key: _without_folders(part) for key, part in value.items()} | short


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

    def only(self, labels: list[str]) -> "Benchmark":
        """The same benchmark with these of its algorithms.

        Raises:
            ConfigError: it has no such algorithm.
        """
        for label in labels:
            if label not in self.algorithms:
                near = nearest(label, self.algorithms)
                raise ConfigError(
                    f"--only: no {label!r} in {self.name}{near}; there are {', '.join(self.algorithms)}"
                )
        return replace(self, algorithms={k: v for k, v in self.algorithms.items() if k in labels})

    def left_out(self) -> dict[tuple[str, int], str]:
        """Why which algorithm does not run on how many workers, unless its own entry asks for them."""
        reasons = {}
        for label, entry in self.algorithms.items():
            for workers in entry["workers"] or self.scale.workers:
                try:
                    self._check_stage(label)
                    if not entry["workers"]:
                        self._check_layout(label, workers)
                except ConfigError as error:
                    reasons[label, workers] = str(error)
        return reasons

    def budget(self, label: str) -> Budget:
        """How much the trials of one algorithm may train: as all do, unless its entry says else."""
        return self.algorithms[label]["budget"] or self.workload.budget

    def _hyper_parameters(self, label: str) -> dict[str, Any]:
        return {k: v for k, v in self.algorithms[label].items() if k not in BESIDE}

    def _class(self, label: str) -> "type[Algorithm]":
        return find_algorithms()[self.algorithms[label]["algorithm"]]

    def _check_stage(self, label: str) -> None:
        stages, stage = self._class(label).zero_stages, self.scale.zero_stage
        if stage not in stages:
            raise ConfigError(
                f"algorithms.{label}: runs under ZeRO {', '.join(map(str, stages))}, and"
                f" scale.zero_stage is {stage}"
            )

    def _check_layout(self, label: str, workers: int) -> None:
        try:
            self._class(label).layout(workers, **self._hyper_parameters(label))
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
        self._check_stage(label)
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
