"""The studies of a sweep: their search spaces, and the trials of the configurations drawn from them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna

from paceline.benchmarks.spec.benchmark import Benchmark, Trial, fingerprint
from paceline.benchmarks.spec.code import hashes
from paceline.benchmarks.spec.plugin import ConfigError, nearest
from paceline.benchmarks.spec.settings import Sweep
from paceline.benchmarks.sweeps.drawing import suggest
from paceline.benchmarks.sweeps.objectives import about_target
from paceline.benchmarks.trials.environment import hardware
from paceline.lightning_modules.backend.search import Choice, Dimension

SCALE = ("workers", "batch_size", "zero_stage")


@dataclass(frozen=True)
class StudyPlan:
    """One study: an algorithm at one number of workers, or at several numbers that it draws from."""

    benchmark: Benchmark
    label: str
    workers: tuple[int, ...]

    @property
    def title(self) -> str:
        """The name of the study on the terminal and in MLflow."""
        numbers = " or ".join(map(str, self.workers))
        return f"{self.label}, {numbers} {'worker' if self.workers == (1,) else 'workers'}"

    def name(self, facts: Mapping[str, Any]) -> str:
        """Returns the study's name in Optuna's storage. Settings with comparable trials share a name.

        The number of trials and the seeds of the retrains do not change the name. So a sweep with a
        larger budget continues the same study.
        """
        alike = replace(_same_budget(self.benchmark), algorithms={self.label: self._entry})
        own = self.trial({}, seed=0).own_facts(facts)
        number = fingerprint(alike, {**own, "workers": self.workers})
        return f"{self.benchmark.name}: {self.title} ({number})"

    @property
    def _entry(self) -> dict[str, Any]:
        return self.benchmark.algorithms[self.label]

    @property
    def stated(self) -> tuple[dict[str, Dimension], dict[str, Dimension]]:
        """The search spaces that the task and the algorithm state."""
        task = self.benchmark.workload.task.cls
        algorithm = self.benchmark.algorithm_class(self.label)
        return getattr(task, "search_space", {}), algorithm.search_space

    def space(self) -> dict[str, Dimension]:
        """Returns the dimensions to draw, by name.

        They are `workers` and `batch_size`, then those of the task, those of the algorithm, and
        `zero_stage`. Every dimension is wide enough to include the value of the benchmark's YAML, and
        has no value that makes no trial at these numbers of workers.

        Raises:
            ConfigError: if a stated dimension is not an argument, or if the task and the algorithm state
                the same dimension.
        """
        sweep, (of_task, own) = self.benchmark.sweep, self.stated
        if both := set(of_task) & set(own):
            raise ConfigError(f"{self.label} and its task both draw {min(both)!r}: rename one")
        stated = {
            "workers": Choice(self.workers if len(self.workers) > 1 else ()),
            "batch_size": Choice(tuple(sweep.batch_sizes or ())),
            **of_task,
            **own,
            "zero_stage": Choice(tuple(sweep.zero_stages or ())),
        }
        current = self._current(self.workers[0])
        wide = {
            name: _including(dimension, current[name])
            for name, dimension in stated.items()
            if dimension != Choice(()) and (sweep.only is None or name in (*SCALE, *sweep.only))
        }
        return {n: self._possible(n, d, {}) if n in own else d for n, d in wide.items()}

    def _current(self, workers: int) -> dict[str, Any]:
        """Returns the values in the benchmark's YAML of everything that can be drawn."""
        scale, task = self.benchmark.scale, self.benchmark.workload.task
        of_task, own = self.stated
        known = {**self._entry, **task.arguments}
        for name in (*of_task, *own):
            if name not in known:
                raise ConfigError(f"{task} or {self.label} draws {name!r} but has no such argument")
        return {
            "workers": workers,
            "batch_size": scale.batch_size,
            "zero_stage": scale.zero_stage,
            **{name: task.arguments[name] for name in of_task},
            **{name: self._entry[name] for name in own},
        }

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draws a configuration: a value for each dimension, without the values that make no trial."""
        drawn: dict[str, Any] = {}
        for name, stated in self.space().items():
            dimension = self._possible(name, stated, drawn)
            if isinstance(dimension, Choice) and len(dimension.values) < 2:
                continue  # nothing to choose
            other = dimension != stated and "workers" in drawn
            key = f"{name} at {drawn['workers']} workers" if other else name
            drawn[name] = suggest(trial, key, dimension)
        return drawn

    def _possible(self, name: str, dimension: Dimension, drawn: dict[str, Any]) -> Dimension:
        """Returns a dimension without the values that make no trial together with those drawn."""
        if not isinstance(dimension, Choice):
            return dimension
        numbers = (drawn["workers"],) if "workers" in drawn else self.workers
        return Choice(
            tuple(
                value
                for value in dimension.values
                if any(self._fits({"workers": n} | drawn | {name: value}) for n in numbers)
            )
        )

    def _fits(self, drawn: dict[str, Any]) -> bool:
        stated = self.trial({"workers": drawn["workers"]}, seed=0)
        try:
            trial = self.trial(drawn, seed=0)
        except ConfigError:
            return False
        if trial.layout.replicas == 1 < stated.layout.replicas:
            return False  # replicas would have nobody to exchange with
        # ZeRO divides the state of a replica among its ranks, so it needs several ranks.
        return trial.zero_stage == self.benchmark.scale.zero_stage or trial.layout.ranks > 1

    def queue(self) -> list[dict[str, Any]]:
        """Returns the configurations to try first: that of the benchmark's YAML at every scale."""
        names = self.space()
        current = [self._current(workers) for workers in self.workers]
        return [{n: v for n, v in values.items() if n in names} for values in current]

    def trial(self, drawn: Mapping[str, Any], seed: int) -> Trial:
        """Returns the trial of a drawn configuration.

        Raises:
            ConfigError: if the configuration makes no valid trial.
        """
        of_task, own = ({n: drawn[n] for n in stated if n in drawn} for stated in self.stated)
        scale = {name: drawn[name] for name in ("batch_size", "zero_stage") if name in drawn}
        workload, task = self.benchmark.workload, self.benchmark.workload.task
        configured = replace(
            self.benchmark,
            workload=replace(workload, task=replace(task, arguments=task.arguments | of_task)),
            algorithms={self.label: self._entry | own},
            scale=replace(self.benchmark.scale, **scale),
        )
        return configured.trial(self.label, drawn.get("workers", self.workers[0]), seed)


def _including(dimension: Dimension, value: Any) -> Dimension:
    if isinstance(dimension, Choice):
        known = value in dimension.values
        return dimension if known else Choice((value, *dimension.values))
    low, high = min(dimension.low, value), max(dimension.high, value)
    return replace(dimension, low=low, high=high)


def _same_budget(benchmark: Benchmark) -> Benchmark:
    """Returns a benchmark without the settings that may change while a sweep continues its studies."""
    neutral = {f: getattr(Sweep(), f) for f in ("algorithms", "workers", "trials", "seeds")}
    return replace(benchmark, seeds=[], sweep=replace(benchmark.sweep, **neutral))


def identity(benchmark: Benchmark, facts: Mapping[str, Any]) -> str:
    """Returns 16 hex digits that identify the sweep of a benchmark and the given facts.

    The code is that of all its algorithms, because a later call may tune others of them.
    """
    code = hashes(benchmark.files) if isinstance(facts.get("code"), Mapping) else facts.get("code")
    return fingerprint(_same_budget(benchmark), {"sweep": True, **facts, "code": code})


def plans(benchmark: Benchmark) -> tuple[list[StudyPlan], list[str]]:
    """Returns the studies of a sweep, and a line with the reason for each study that is left out.

    An algorithm is left out at a number of workers on which it does not run. If the time to the target is
    an objective, it is also left out at more workers than this machine has room for, because seconds mean
    nothing if ranks share a core.

    Raises:
        ConfigError: if a named algorithm does not exist, if no study is left, if `sweep.only` names an
            unknown dimension, or if an objective needs a target and the workload has none.
    """
    sweep, scale = benchmark.sweep, benchmark.scale
    wanting = about_target(sweep.objectives)
    if wanting and benchmark.workload.target.loss is None:
        raise ConfigError(
            f"sweep.objectives: {wanting[0]} needs a target; set workload.target.loss, or tune"
            " final_loss or churn"
        )
    there, left_out = [], []
    machine = hardware()
    room = len(machine["gpus"]) if machine["gpus"] and scale.accelerator != "cpu" else None
    room = room or machine["cores"] // scale.threads
    for label in sweep.algorithms or benchmark.algorithms:
        if label not in benchmark.algorithms:
            known = ", ".join(benchmark.algorithms)
            raise ConfigError(
                f"sweep.algorithms: no {label!r} in {benchmark.name}; there are {known}"
            )
        of_label = benchmark.algorithms[label]["workers"]
        scales = []
        for workers in sweep.workers or of_label or scale.workers:
            plan = StudyPlan(benchmark, label, (workers,))
            try:
                plan.trial({}, seed=0)
            except ConfigError as error:
                left_out.append(f"{plan.title}: {error}")
                continue
            if workers > room and "time_to_target_s" in sweep.objectives:
                left_out.append(f"{plan.title}: more than this machine has room for, {room}")
                continue
            scales.append(plan)
        if sweep.pool_workers and scales:
            numbers = tuple(plan.workers[0] for plan in scales)
            scales = [StudyPlan(benchmark, label, numbers)]
        there += scales
    if not there:
        raise ConfigError("sweep: nothing to tune; " + "; ".join(left_out))
    stated = {name for plan in there for space in plan.stated for name in space}
    for name in set(sweep.only or ()) - stated:
        near = nearest(name, stated)
        raise ConfigError(f"sweep.only: no algorithm or task here draws {name!r}{near}")
    return there, left_out
