"""Every algorithm at every scale that it runs at."""

import inspect
from dataclasses import dataclass, replace
from typing import Any

from paceline.benchmarks.spec.benchmark import Trial
from paceline.datasets.partition import Partition
from paceline.lightning_modules import find_algorithms
from tests.workload import trial

ALGORITHMS = find_algorithms()
STEPS = 40
# With buffers and dropout; with frozen and with tied parameters; with groups and a schedule.
MODELS = ("Noisy", "Frozen", "WarmedUp")
# What makes an algorithm exchange several times in so few steps; none is needed where the defaults do.
SETTINGS: dict[str, dict[str, Any]] = {
    "admm": {"local_steps": 5, "rho": 0.1},
    "codistillation": {"burn_in": 5, "period": 5},
    "elastic_averaging": {"tau": 5},
    "model_averaging": {"tau": 5},
}


@dataclass(frozen=True)
class Case:
    """An algorithm at a scale."""

    algorithm: str
    workers: int
    ranks_per_replica: int | None = None
    zero_stage: int = 0
    model: str = "Tower"
    numerics: bool = False  # mixed precision, accumulation and clipping

    def __str__(self) -> str:
        ranks = f"-of-{self.ranks_per_replica}" if self.ranks_per_replica else ""
        model = self.model.rpartition(":")[2]
        numerics = "-mixed" if self.numerics else ""
        return f"{self.algorithm}-{self.workers}{ranks}-zero{self.zero_stage}-{model}{numerics}"

    def trial(self, **changes: Any) -> Trial:
        hyper_parameters = dict(SETTINGS.get(self.algorithm, {}))
        if self.ranks_per_replica:
            hyper_parameters["ranks_per_replica"] = self.ranks_per_replica
        # 101 rows and 50 to validate on: the last batch of every epoch and of every rank is odd. Four
        # replicas share them unequally.
        settings: dict[str, Any] = {
            "data": {"rows": 101},
            "width": 1000,
            "lr": 0.02,
            "partition": Partition("dirichlet" if self.workers == 4 else "iid", alpha=2.0),
        }
        made = trial(
            self.workers,
            6,
            changes.pop("steps", STEPS),
            algorithm=self.algorithm,
            zero_stage=self.zero_stage,
            model=self.model,
            hyper_parameters=hyper_parameters,
            **(settings | changes),
        )
        numerics = {"precision": "bf16-mixed", "accumulate": 2, "clip_norm": 1.0}
        return replace(made, **numerics) if self.numerics else made


def cases_of(name: str) -> list[Case]:
    """The scales at which an algorithm runs."""
    algorithm = ALGORITHMS[name]
    several = "ranks_per_replica" in inspect.signature(algorithm.__init__).parameters
    found = []
    for workers in (1, 2, 4):
        for ranks in (None, 2) if several and workers == 4 else (None,):
            try:
                layout = algorithm.layout(
                    workers, **({"ranks_per_replica": ranks} if ranks else {})
                )
            except ValueError:
                continue
            stages = (0, 1, 2) if workers == 4 and layout.ranks > 1 else (0,)
            found += [Case(name, workers, ranks, stage) for stage in stages]
    # Of each kind of model, where the algorithm has as few workers as it exchanges between.
    few = min((case.workers for case in found if case.workers > 1), default=1)
    brought = [Case(name, few, model=f"tests.models:{model}") for model in MODELS]
    return [*brought, Case(name, few, numerics=True), *found]


CASES = [case for name in ALGORITHMS for case in cases_of(name)]
