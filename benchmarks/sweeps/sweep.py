"""Tunes every algorithm of a benchmark at every scale on equal terms, then retrains the best ones.

Each pair of an algorithm and a scale has its own study, and all studies have the same budget. The search
space of a study is stated in the files of the algorithm and the task. The best configuration of each
study is trained again on seeds that were not used for tuning, and only these trials are scored. The
protocol is that of AlgoPerf (Dahl et al. 2023, "Benchmarking Neural Network Training Algorithms").

Parameters are drawn in this process only, so the ranks of a trial cannot disagree on them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from mlflow.tracking import MlflowClient
from optuna.study import Study
from optuna.trial import TrialState

from paceline.benchmarks.nodes.cluster import current
from paceline.benchmarks.nodes.remote import NodeLost
from paceline.benchmarks.spec.benchmark import Benchmark, Trial
from paceline.benchmarks.sweeps.handing_out import (
    REASON,
    counted,
    hand_out,
    queue,
    take_back,
)
from paceline.benchmarks.sweeps.objectives import (
    DECIDED_AT_TARGET,
    about_target,
    excess,
    is_dominated,
    lower_bounds,
    value,
)
from paceline.benchmarks.sweeps.opened import DRAWN, RUN_IDS, OpenedStudy, open_study
from paceline.benchmarks.sweeps.plan import identity, plans
from paceline.benchmarks.sweeps.studies import Studies
from paceline.benchmarks.trials.display import Display
from paceline.benchmarks.trials.following import Stop, Watch
from paceline.benchmarks.trials.lock import machine
from paceline.benchmarks.trials.preparing import prepare
from paceline.benchmarks.trials.rehearsal import rehearsed
from paceline.benchmarks.trials.runner import Ended, run_trial
from paceline.benchmarks.trials.store import is_connection_lost
from paceline.benchmarks.trials.tracking import BenchmarkRun, check_experiment
from paceline.reports.measures.link import PRESETS
from paceline.reports.measures.scoring import reached

POLL_S = 0.5


def sweep(
    benchmark: Benchmark,
    client: MlflowClient,
    studies: Studies,
    link: str,
    display: Display,
    share_machine: bool = False,
    keep_going: bool = False,
) -> "Missing":
    """Runs the missing trials and retrains of a sweep. The scored trials form the benchmark NAME-sweep.

    A sweep can be interrupted at any point, and the next call continues it. Several calls at the same
    time share the work.

    Args:
        benchmark: the benchmark to tune.
        client: a client of the MLflow store.
        studies: the storage of the studies.
        link: the preset of `paceline.reports.measures.link` for which time is modelled.
        display: shows the progress.
        share_machine: if true, other benchmarks and sweeps may use this machine at the same time.
        keep_going: if true, the studies whose first configuration fails in the rehearsal are left out.

    Returns:
        The retrains and studies that are still missing.

    Raises:
        RehearsalFailed: if a configuration fails in the rehearsal and `keep_going` is false.
    """
    if studies.mended:
        display.note(studies.mended)
    check_experiment(client, f"{benchmark.name}-sweep")
    planned, left_out = plans(benchmark)
    for text in left_out:
        display.note(f"left out: {text}")
    if not getattr(benchmark.workload.task.cls, "search_space", {}):
        task = benchmark.workload.task
        display.note(
            f"{task} states no search_space: its own settings, such as the learning rate, stay as they"
            " are, and only what the algorithms state is tuned"
        )
    trials = [plan.trial({}, seed=0) for plan in planned]
    about = prepare(trials, display)
    facts = dict(about["facts"])
    with nullcontext() if share_machine else machine(display):
        able = rehearsed(trials, facts, display, keep_going)
    failed = [plan.title for plan, t in zip(planned, trials, strict=True) if t not in able]
    left_out += [f"{title}: it failed in the rehearsal" for title in failed]
    planned = [plan for plan in planned if plan.title not in failed]
    if "modelled_time_to_target_s" in benchmark.sweep.objectives:
        facts["link"] = link  # modelled seconds of different links cannot be compared
    with studies.lock():
        number = identity(benchmark, facts)
        parent = BenchmarkRun(client, f"{benchmark.name}-sweep", number, about, display.note)
        opened = [open_study(plan, studies, parent, facts) for plan in planned]
    with parent:
        work = _Work(benchmark, parent, studies, link, display, share_machine)
        for each in opened:
            work.tune(each)
            work.describe(opened, left_out)
        for each in opened:
            work.retrain(each)
            parent.outbox.end(each.run_id, "FINISHED")
        missing = replace(work.describe(opened, left_out), rehearsals=len(failed))
        parent.failed = bool(missing)
    return missing


@dataclass(frozen=True)
class Missing:
    """The parts of a sweep that are missing. It is false if nothing is missing.

    Attributes:
        retrains: the number of retrains that failed. The next call tries them again.
        studies: the number of studies that used up their budget without a finished trial. The next call
            continues them if the budget is larger.
        rehearsals: the number of studies that were left out because the rehearsal failed.
    """

    retrains: int
    studies: int
    rehearsals: int = 0

    def __bool__(self) -> bool:
        return self.retrains + self.studies + self.rehearsals > 0


@dataclass(frozen=True)
class _Work:
    """The work of this process on a sweep."""

    benchmark: Benchmark
    parent: BenchmarkRun
    studies: Studies
    link: str
    display: Display
    share_machine: bool

    def tune(self, opened: OpenedStudy) -> None:
        """Runs trials of a study until its budget is used up."""
        plan, study, settings = opened.plan, opened.study, self.benchmark.sweep

        def draw(trial: optuna.Trial) -> None:
            trial.set_user_attr(DRAWN, plan.draw(trial))

        def train(trial: optuna.Trial) -> None:
            index = len(counted(study.get_trials(deepcopy=False))) - 1
            drawn = trial.user_attrs[DRAWN]
            shown = ", ".join(f"{name} {_short(value)}" for name, value in drawn.items())
            self.display.trial(f"{plan.title}: {shown}", index, settings.trials)
            self._try(opened, trial, drawn)

        self._take_all(study, settings.trials, draw, train)

    def _try(self, opened: OpenedStudy, trial: optuna.Trial, drawn: Mapping[str, Any]) -> None:
        """Trains a configuration on every tuning seed and reports the outcome to the study."""
        settings, target = self.benchmark.sweep, self.benchmark.workload.target.loss
        ended: list[Ended] = []
        for seed in settings.tuning_seeds:
            watch = self._watch(opened.study, ended)
            ended.append(self._train(opened, trial, drawn, seed, "tuning", watch))
            if reason := ended[-1].failure:
                trial.set_user_attr(REASON, reason)
                hopeless = ended[-1].error in ("Stop", "Diverged")
                opened.study.tell(trial, state=TrialState.PRUNED if hopeless else TrialState.FAIL)
                return
        link = PRESETS[self.link]
        values = [value(name, ended, target, link) for name in settings.objectives]
        if target is not None and about_target(settings.objectives):
            trial.set_constraint("validation loss over the target", excess(ended, target))
        opened.study.tell(trial, values)

    def _watch(self, study: Study, earlier: Sequence[Ended]) -> Watch:
        """Returns a function that ends a trial that already has its results or is hopeless.

        Args:
            study: the study of the trial.
            earlier: the trials of the same configuration that have finished.
        """
        settings, target = self.benchmark.sweep, self.benchmark.workload.target.loss
        objectives, seeds = settings.objectives, len(settings.tuning_seeds)
        link = PRESETS[self.link]
        curve: list[dict[str, float]] = []
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

        def watch(point: dict[str, float]) -> None:
            curve.append(point)
            there = reached([point["validation_loss"]], target) is not None
            if there and set(objectives) <= set(DECIDED_AT_TARGET):
                raise Stop
            bounds = lower_bounds(objectives, curve, earlier, seeds, target, link)
            if is_dominated(bounds, done):
                raise Stop(f"given up after {len(curve)} evaluations: another is better by now")

        return watch

    def retrain(self, opened: OpenedStudy) -> None:
        """Trains the best configuration of a study on every fresh seed."""
        plan, best, seeds = opened.plan, opened.best, self.benchmark.sweep.seeds
        if best is None:
            self.display.note(f"{plan.title}: no trial finished, so there is nothing to retrain")
            return
        # The retrains are a separate study. Its only dimension is the seed. Its trials are all queued:
        # those that MLflow lacks, whatever Optuna knows about them.
        retrains = self.studies.study(f"{opened.study.study_name}, retrains of {best.number}")
        facts, drawn = self.parent.about["facts"], best.user_attrs[DRAWN]
        with self.studies.lock():
            take_back(retrains, self.studies.signs)
            finished = self.parent.finished_trials()
            missing = [s for s in seeds if plan.trial(drawn, s).identity(**facts) not in finished]
            queue(retrains, [{"seed": seed} for seed in missing], again=True)

        def draw(trial: optuna.Trial) -> None:
            trial.suggest_int("seed", 0, 2**31 - 1)

        def train(trial: optuna.Trial) -> None:
            seed = trial.params["seed"]
            index = sum(other.state.is_finished() for other in counted(retrains.trials))
            self.display.trial(f"{plan.title}, seed {seed}", index, len(seeds))
            ended = self._train(opened, trial, best.user_attrs[DRAWN], seed, "trial")
            if ended.failure:
                trial.set_user_attr(REASON, ended.failure)
                retrains.tell(trial, state=TrialState.FAIL)
            else:
                retrains.tell(trial, ended.figures["final_loss"])

        self._take_all(retrains, 0, draw, train)

    def _train(
        self,
        opened: OpenedStudy,
        trial: optuna.Trial,
        drawn: Mapping[str, Any],
        seed: int,
        kind: str,
        watch: Watch | None = None,
    ) -> Ended:
        configured = opened.plan.trial(drawn, seed)
        ended = run_trial(configured, self.parent, self.display, kind, opened.run_id, watch)
        if ended.error == NodeLost.__name__:
            raise NodeLost(ended.failure)  # the configuration is not to blame
        self.display.ended(configured.title, ended.summary)
        trial.set_user_attr(RUN_IDS, [*trial.user_attrs.get(RUN_IDS, []), ended.run_id])
        return ended

    def _take_all(
        self,
        study: Study,
        budget: int,
        draw: Callable[[optuna.Trial], None],
        train: Callable[[optuna.Trial], None],
    ) -> None:
        """Takes trials of a study until none is left and no other process runs one."""
        settings, waiting = self.benchmark.sweep, False
        while True:
            # Wait for the machine before drawing, so that the draw knows the result of the last trial.
            with nullcontext() if self.share_machine else machine(self.display):
                current().usable(self.benchmark.scale.nodes or 1)  # before a trial is taken
                try:
                    with self.studies.lock():
                        trial = hand_out(study, budget, draw, settings.sampler, self.studies.signs)
                    if trial is not None:
                        with self.studies.heartbeats(trial):
                            train(trial)
                        continue
                except (KeyboardInterrupt, NodeLost) as error:
                    with self.studies.lock():
                        take_back(study, self.studies.signs)
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    self.display.note(str(error))
                    continue
                except Exception as error:
                    if not is_connection_lost(error):
                        raise
                    self.display.note("the database ended the connection; going on")
                    continue
            if not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                return
            if not waiting:
                self.display.note("waiting for trials that other processes run")
            waiting = True
            time.sleep(POLL_S)

    def describe(self, all_opened: list[OpenedStudy], left_out: list[str]) -> Missing:
        """Stores the current state of the sweep and returns what is still missing."""
        settings, facts = self.benchmark.sweep, self.parent.about["facts"]
        scored: dict[str, Trial] = {}
        nothing_found = 0
        for opened in all_opened:
            best = opened.best
            nothing_found += best is None
            if best is not None:
                trials = [opened.plan.trial(best.user_attrs[DRAWN], s) for s in settings.seeds]
                scored |= {trial.identity(**facts): trial for trial in trials}
        record = {
            "settings": asdict(settings),
            "link": self.link,
            "left_out": left_out,
            "studies": [opened.record() for opened in all_opened],
        }
        shown = replace(self.benchmark, seeds=settings.seeds)
        self.parent.describe(shown, scored, sweep=record)
        unfinished = set(scored) - self.parent.finished_trials()
        return Missing(len(unfinished), nothing_found)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
