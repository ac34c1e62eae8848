"""A benchmark and the trials that follow from it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paceline.benchmarks.spec.algorithms import algorithm_class
from paceline.benchmarks.spec.code import files_of
from paceline.benchmarks.spec.plugin import ConfigError, Plugin, nearest
from paceline.benchmarks.spec.settings import Budget, Fault, Scale, Sweep, Target
from paceline.benchmarks.spec.workload import Workload
from paceline.datasets.partition import Partition

if TYPE_CHECKING:
    from paceline.lightning_modules.backend.algorithm import Algorithm
    from paceline.lightning_modules.backend.layout import Layout

# The keys in the entry of an algorithm that are not hyper-parameters.
BESIDE = ("algorithm", "class", "workers", "partition", "budget")


def fingerprint(config: Any, facts: Mapping[str, Any]) -> str:
    """Returns 16 hex digits that identify a dataclass and the given facts.

    The folders of its files do not change the digits.
    """
    text = json.dumps([_without_folders(asdict(config)), dict(facts)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_folders(value: Any) -> Any:
    """Removes the folder from the name of each class in a file, because the text of the file counts."""
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    if not isinstance(value, dict):
        return value
    short = {"name": Path(value["name"]).name} if value.get("source") is not None else {}
    return {key: _without_folders(part) for key, part in value.items()} | short


def _plugin(algorithm: "type[Algorithm]", own: Plugin | None) -> Plugin:
    """Returns the class of an algorithm as a plugin: a user's own, or one of Paceline."""
    return own or Plugin(f"{algorithm.__module__}:{algorithm.__name__}", {})


@dataclass(frozen=True)
class Trial:
    """One training run. It holds everything that is needed to run it again.

    Attributes:
        label: the name of the algorithm in the benchmark. A benchmark may contain an algorithm several
            times, with different hyper-parameters.
        algorithm: the name of the algorithm.
        own: the class of the algorithm if it is a user's own.
        batch_size: the number of examples that a rank takes at each step.
        lr_factor: the factor by which the learning rates of the task are multiplied.
        precision, accumulate, clip_norm: as in `Scale`.
        nodes: the number of nodes. Each has equally many of the workers.
        partition: how the training examples are divided among the replicas.
        fault: the fault that is injected.
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
    lr_factor: float = 1.0
    precision: Literal[32, "bf16-mixed", "bf16"] = 32
    accumulate: int = 1
    clip_norm: float | None = None
    nodes: int = 1
    own: Plugin | None = None
    partition: Partition = field(default_factory=Partition)
    fault: Fault = field(default_factory=Fault)

    @property
    def algorithm_class(self) -> "type[Algorithm]":
        return algorithm_class(self.algorithm, self.own)

    @property
    def layout(self) -> "Layout":
        """The division of the workers into replicas."""
        return self.algorithm_class.layout(self.workers, **self.hyper_parameters)

    @property
    def configuration(self) -> str:
        """The name of the trial and of those that differ from it only in the seed."""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{self.label}, {workers}"

    @property
    def title(self) -> str:
        """The name of the trial on the terminal and in MLflow."""
        return f"{self.configuration}, seed {self.seed}"

    @property
    def files(self) -> dict[str, Path]:
        """The files that the trial runs, see `paceline.benchmarks.spec.code`."""
        algorithm = _plugin(self.algorithm_class, self.own)
        return files_of([self.workload.data, self.workload.task, algorithm])

    def own_facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the facts of several trials without the code that this one does not run."""
        code = facts.get("code")
        if not isinstance(code, Mapping):
            return dict(facts)
        return {**facts, "code": {name: code[name] for name in sorted(self.files)}}

    def identity(self, **facts: Any) -> str:
        """Returns 16 hex digits that identify this trial and the given facts (code, data, hardware).

        The target does not change them, as it changes no weights.
        """
        workload = replace(self.workload, target=Target())
        return fingerprint(replace(self, workload=workload), self.own_facts(facts))

    @classmethod
    def from_record(cls, fields: dict[str, Any]) -> "Trial":
        """Returns the trial from its `fields`, the result of `dataclasses.asdict`."""
        workload, own = fields["workload"], fields.get("own")
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
                "own": own and Plugin(**own),
                "partition": Partition(**fields["partition"]),
                "fault": Fault(**fields["fault"]),
            }
        )


@dataclass(frozen=True)
class Benchmark:
    """A workload with the algorithms to compare on it, the scales and the seeds."""

    name: str
    workload: Workload
    algorithms: dict[str, dict[str, Any]]
    scale: Scale
    seeds: list[int]
    partition: Partition = field(default_factory=Partition)
    fault: Fault = field(default_factory=Fault)
    sweep: Sweep = field(default_factory=Sweep)

    def identity(self, **facts: Any) -> str:
        """Returns 16 hex digits that identify this benchmark and the given facts.

        The section `sweep` does not change the digits.
        """
        return fingerprint(replace(self, sweep=Sweep()), facts)

    def trials(self) -> list[Trial]:
        """Returns all trials, ordered by seed.

        An interrupted benchmark therefore has complete comparisons for its first seeds.

        Raises:
            ConfigError: if an algorithm does not run on a number of workers that its own `workers` asks
                for, if no algorithm runs at all, or if the batch cannot be divided among the workers.
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
        """Returns the same benchmark with only the algorithms of these labels.

        Raises:
            ConfigError: if the benchmark has no algorithm of a label.
        """
        for label in labels:
            if label not in self.algorithms:
                near = nearest(label, self.algorithms)
                raise ConfigError(
                    f"--only: no {label!r} in {self.name}{near}; there are {', '.join(self.algorithms)}"
                )
        return replace(self, algorithms={k: v for k, v in self.algorithms.items() if k in labels})

    def on(self, workers: list[int]) -> "Benchmark":
        """Returns the same benchmark on these numbers of workers only.

        An algorithm that has a single number of workers of its own keeps it, as the baseline does. One
        that has several, but none of these, is removed.

        Raises:
            ConfigError: if no algorithm is left.
        """
        entries = {}
        for label, entry in self.algorithms.items():
            own = entry["workers"] or []
            kept = own if len(own) < 2 else [n for n in own if n in workers]
            if kept or not own:
                entries[label] = entry | {"workers": kept or entry["workers"]}
        if not entries:
            numbers = ", ".join(map(str, workers))
            raise ConfigError(f"--workers: no algorithm of {self.name} runs on {numbers} workers")
        return replace(self, algorithms=entries, sweep=replace(self.sweep, workers=workers))

    def left_out(self) -> dict[tuple[str, int], str]:
        """Returns the algorithms that cannot run, as (label, number of workers), with the reasons.

        An algorithm whose own entry asks for a number of workers is not left out because of its layout.
        """
        reasons = {}
        for label, entry in self.algorithms.items():
            for workers in entry["workers"] or self.scale.workers:
                try:
                    self._check_needs(label)
                    if not entry["workers"]:
                        self._check_layout(label, workers)
                except ConfigError as error:
                    reasons[label, workers] = str(error)
        return reasons

    @property
    def files(self) -> dict[str, Path]:
        """The files that its trials run, whatever is picked from it."""
        algorithms = [
            _plugin(self.algorithm_class(label), entry.get("class"))
            for label, entry in self.algorithms.items()
        ]
        return files_of([self.workload.data, self.workload.task, *algorithms])

    def budget(self, label: str) -> Budget:
        """Returns the budget of one algorithm: that of its entry if it has one, else the workload's."""
        return self.algorithms[label]["budget"] or self.workload.budget

    def _hyper_parameters(self, label: str) -> dict[str, Any]:
        return {k: v for k, v in self.algorithms[label].items() if k not in BESIDE}

    def algorithm_class(self, label: str) -> "type[Algorithm]":
        """Returns the class of the algorithm with that label."""
        entry = self.algorithms[label]
        return algorithm_class(entry["algorithm"], entry.get("class"))

    def _check_needs(self, label: str) -> None:
        """Checks that an algorithm runs under the stage of ZeRO, with the task and on its partition."""
        stages, stage = self.algorithm_class(label).zero_stages, self.scale.zero_stage
        if stage not in stages:
            raise ConfigError(
                f"algorithms.{label}: runs under ZeRO {', '.join(map(str, stages))}, and"
                f" scale.zero_stage is {stage}"
            )
        if self.algorithm_class(label).needs_logits and (missing := self.workload.lacking):
            raise ConfigError(
                f"algorithms.{label}: needs logits and labels, and {self.workload.task} has no"
                f" {', '.join(missing)}"
            )
        partition = self.algorithms[label]["partition"] or self.partition
        if partition.needs_labels and "labels" in self.workload.lacking:
            raise ConfigError(
                f"partition.kind: {partition.kind} needs the labels, and {self.workload.task} has no"
                " method labels(batch)"
            )

    def _check_layout(self, label: str, workers: int) -> None:
        try:
            self.algorithm_class(label).layout(workers, **self._hyper_parameters(label))
        except ValueError as error:
            raise ConfigError(f"algorithms.{label}.workers: {error}") from error

    def trial(self, label: str, workers: int, seed: int) -> Trial:
        """Returns the trial of one algorithm with a number of workers and a seed.

        Raises:
            ConfigError: if the algorithm does not run on that number of workers, at this ZeRO stage or
                with this task, or if the batch cannot be divided among the workers or into parts.
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
        if batch_size % self.scale.accumulate:
            raise ConfigError(
                f"scale.accumulate: a worker's batch of {batch_size} examples cannot be divided into"
                f" {self.scale.accumulate} equal parts"
            )
        self._check_needs(label)
        self._check_layout(label, workers)
        # An update averages over the ranks of a replica. Replicas take their updates apart.
        ranks = self.algorithm_class(label).layout(workers, **self._hyper_parameters(label)).ranks
        return Trial(
            benchmark=self.name,
            workload=replace(self.workload, budget=self.budget(label)),
            label=label,
            algorithm=entry["algorithm"],
            own=entry.get("class"),
            hyper_parameters=self._hyper_parameters(label),
            workers=workers,
            batch_size=batch_size,
            zero_stage=self.scale.zero_stage,
            threads=self.scale.threads,
            accelerator=self.scale.accelerator,
            seed=seed,
            lr_factor=self.scale.lr_factor(ranks * batch_size),
            precision=self.scale.precision,
            accumulate=self.scale.accumulate,
            clip_norm=self.scale.clip_norm,
            nodes=self.scale.nodes_of(workers),
            partition=entry["partition"] or self.partition,
            fault=self.fault if self.fault.rank < workers else Fault(),
        )
