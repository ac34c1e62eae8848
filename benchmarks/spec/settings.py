"""The sections of a benchmark's YAML: target, budget, scale, fault and sweep."""

from dataclasses import dataclass, field
from typing import Literal

Objective = Literal[
    "time_to_target_s", "modelled_time_to_target_s", "bytes_to_target", "final_loss", "churn"
]
Sampler = Literal["tpe", "nsga2", "random"]
Pruner = Literal["hyperband", "successive_halving", "none"]


@dataclass(frozen=True)
class Target:
    """What a trial is to reach.

    Args:
        loss: the validation loss at or below which the target counts as reached; None is no target.
    """

    loss: float | None = None


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
        if not set(self.zero_stages or ()) <= {0, 1, 2, 3}:
            raise ValueError(f"sweep.zero_stages: {self.zero_stages} must be among 0, 1, 2 and 3")
        if shared := sorted(set(self.tuning_seeds) & set(self.seeds)):
            raise ValueError(f"sweep.seeds: {shared} are tuned on; retrains need fresh seeds")
        if "churn" in self.objectives and len(self.tuning_seeds) < 2:
            raise ValueError("sweep.tuning_seeds: churn needs two seeds to compare")
