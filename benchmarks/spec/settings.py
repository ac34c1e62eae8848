"""The sections of a benchmark's YAML: target, budget, scale, fault and sweep."""

import math
from dataclasses import dataclass, field
from typing import Literal

Objective = Literal[
    "time_to_target_s", "modelled_time_to_target_s", "bytes_to_target", "final_loss", "churn"
]
Sampler = Literal["tpe", "nsga2", "random"]


@dataclass(frozen=True)
class Target:
    """The validation loss that a trial should reach.

    Args:
        loss: the largest validation loss that reaches the target, or None for no target.
    """

    loss: float | None = None


@dataclass(frozen=True)
class Budget:
    """How long a trial may train. It ends at the first limit that it reaches.

    Args:
        examples: the number of training examples, summed over all workers.
        epochs: the number of passes over the training set.
        evaluations: the number of evaluations during training, evenly spaced.
    """

    examples: int = 1_000_000
    epochs: float = 5
    evaluations: int = 20

    def schedule(self, rows: int, step_examples: int) -> tuple[int, int]:
        """Returns the number of steps of a trial and the number of steps between two evaluations.

        Training ends with an evaluation, so the budget is rounded to whole intervals. The rounding
        changes it by at most half an interval, and there may be a few evaluations more or less than the
        budget states.

        Args:
            rows: the number of training examples.
            step_examples: the number of examples of a step, summed over all workers.
        """
        examples = min(self.examples, self.epochs * rows)
        steps = max(1, round(examples / step_examples))
        every = max(1, round(steps / self.evaluations))
        return every * max(1, round(steps / every)), every


@dataclass(frozen=True)
class Scale:
    """The numbers of workers, the batch size and the hardware of a benchmark.

    Args:
        workers: the numbers of workers (ranks) to train with.
        batch_size: examples a step, of each worker (weak scaling) or of all together (strong).
        scaling: `weak` gives each worker a full batch, so more workers take larger steps.
            `strong` divides one batch among the workers.
        lr_rule: how the learning rate of the task grows with the examples that one update averages,
            relative to `batch_size`: not at all, in proportion (Goyal et al. 2017, for SGD), or with the
            square root (Krizhevsky 2014; Malladi et al. 2022, for Adam).
        zero_stage: the ZeRO stage within a replica, 0 to 3.
        precision: what the model is computed in. `32` keeps the dtype of the model, which is float32
            unless the model says otherwise. `bf16-mixed` keeps float32 weights and computes in bfloat16
            where torch's autocast does so. `bf16` converts the whole model to bfloat16.
        accumulate: the number of parts in which a worker computes the gradient of its batch. It saves
            memory. A step is still one batch.
        clip_norm: the largest norm of a gradient; longer ones are shortened to it. None leaves all as
            they are.
        threads: the number of CPU threads of each rank.
        accelerator: the hardware to train on. `auto` uses the GPUs if the machine has any.
        nodes: the number of nodes. By default, it is the number that a launcher has started.
        workers_per_node: the number of workers for which a node has room. A trial uses as few nodes as
            have room for its workers, or all of them. The default is a GPU for each, or a core.
    """

    workers: list[int]
    batch_size: int = 256
    scaling: Literal["weak", "strong"] = "weak"
    lr_rule: Literal["constant", "linear", "sqrt"] = "constant"
    zero_stage: Literal[0, 1, 2, 3] = 0
    precision: Literal[32, "bf16-mixed", "bf16"] = 32
    accumulate: int = 1
    clip_norm: float | None = None
    threads: int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    nodes: int | None = None
    workers_per_node: int | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "workers_per_node"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"scale.{name} must be at least 1, not {value}")

    def nodes_of(self, workers: int) -> int:
        """Returns the number of nodes for a trial on so many workers. Each has equally many of them."""
        able = [n for n in range(1, (self.nodes or 1) + 1) if workers % n == 0]
        room = self.workers_per_node or workers
        return next((n for n in able if workers <= n * room), able[-1])

    def lr_factor(self, examples: int) -> float:
        """Returns the factor of the learning rate for updates that average so many examples."""
        ratio = examples / self.batch_size
        match self.lr_rule:
            case "linear":
                return ratio
            case "sqrt":
                return math.sqrt(ratio)
            case "constant":
                return 1.0


@dataclass(frozen=True)
class Fault:
    """A fault that is injected into one rank.

    Args:
        kind: `kill` kills the process, `raise` raises an error, `slow` slows all later steps.
            `none` is no fault.
        rank: the rank that has the fault. Trials without this rank have no fault.
        step: the step, counted from 1, after which the fault occurs.
        factor: how many times as long the steps of a slow rank take, at least 1.
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
    """How a benchmark is tuned. Each algorithm has one study at each scale, all with the same budget.

    Args:
        algorithms: the algorithms to tune. The default is all algorithms of the benchmark.
        workers: the numbers of workers to tune at. The default is those of the benchmark.
        pool_workers: draw the number of workers like the other parameters, in one study per algorithm.
        batch_sizes: the values of `scale.batch_size` to draw from.
        zero_stages: the values of `scale.zero_stage` to draw from if a replica has several ranks.
        only: the dimensions of the search spaces to draw. The default is all dimensions.
        trials: the number of trials of a study, including the configuration of the YAML.
        objectives: the objectives to minimise. Several objectives give a Pareto front.
        sampler: the algorithm that draws the parameters.
        tuning_seeds: the seeds to tune on. Each configuration is trained once on each of them.
        seeds: the seeds on which the tuned configuration is retrained. Only these trials are scored.
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
    tuning_seeds: list[int] = field(default_factory=lambda: [0, 1])
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
