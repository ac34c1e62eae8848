"""Tunes every algorithm of a benchmark at every scale on equal terms, then retrains what was found.

Each pair of algorithm and scale has a study of its own with the same budget; its search space is what
the algorithm's file and the task's file state. The best configuration of each is trained again on seeds
that nothing was tuned on, and only those trials are scored. The protocol is that of AlgoPerf (Dahl et
al. 2023, "Benchmarking Neural Network Training Algorithms").

Parameters are drawn in this process alone, so the ranks of a trial cannot disagree on them.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from mlflow.tracking import MlflowClient
from optuna.study import Study
from optuna.trial import TrialState

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
from paceline.benchmarks.trials.runner import (
    Display,
    Ended,
    Stop,
    Watch,
    machine,
    prepare,
    run_trial,
)
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
) -> "Missing":
    """Tunes and retrains what is missing; the scored trials are a benchmark named NAME-sweep.

    Interrupted at any point, the next call goes on; several calls at once share the work.

    Args:
        benchmark: what is tuned.
        client: MLflow's store.
        studies: Optuna's storage.
        link: the preset of `paceline.reports.measures.link` over which time is modelled.
        display: where progress is shown.
        share_machine: whether other benchmarks and sweeps may use this machine meanwhile.

    Returns:
        what could not be done.
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
    about = prepare([plan.trial({}, seed=0) for plan in planned], display)
    facts = dict(about["facts"])
    if "modelled_time_to_target_s" in benchmark.sweep.objectives:
        facts["link"] = link  # seconds over another cannot be compared
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
        missing = work.describe(opened, left_out)
        parent.failed = bool(missing)
    return missing


@dataclass(frozen=True)
class Missing:
    """What a sweep could not do; false where that is nothing.

    Attributes:
        retrains: how many failed. The next call tries them again.
        studies: how many have used up their budget without a trial that finished. The next call goes on
            with them where the budget is larger.
    """

    retrains: int
    studies: int

    def __bool__(self) -> bool:
        return self.retrains + self.studies > 0


@dataclass(frozen=True)
class _Work:
    """What this process does for a sweep."""

    benchmark: Benchmark
    parent: BenchmarkRun
    studies: Studies
    link: str
    display: Display
    share_machine: bool

    def tune(self, opened: OpenedStudy) -> None:
        """Uses up the budget of a study."""
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
        """Trains a configuration on every tuning seed and tells the study what came of it."""
        settings, target = self.benchmark.sweep, self.benchmark.workload.target.loss
        ended: list[Ended] = []
        for seed in settings.tuning_seeds:
            watch = self._watch(opened.study, trial, first=not ended)
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

    def _watch(self, study: Study, trial: optuna.Trial, first: bool) -> Watch:
        """What ends a trial early: that it has its values or, on the first seed, is hopeless."""
        settings, target = self.benchmark.sweep, self.benchmark.workload.target.loss
        objectives, seen, there = settings.objectives, 0, False

        def watch(point: dict[str, float]) -> None:
            nonlocal seen, there
            seen += 1
            there = there or reached([point["validation_loss"]], target) is not None
            if there and set(objectives) <= set(DECIDED_AT_TARGET):
                raise Stop
            if not first:
                return
            if len(objectives) == 1 and not (there and about_target(objectives)):
                trial.report(point["validation_loss"], seen)
                if trial.should_prune():
                    raise Stop(f"given up after {seen} evaluations: others did better by then")
            # The mean over several seeds has no bound yet.
            elif len(objectives) > 1 and not there and len(settings.tuning_seeds) == 1:
                done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                if is_dominated(lower_bounds(objectives, point), done):
                    raise Stop(
                        f"given up after {seen} evaluations: another is better in everything"
                    )

        return watch

    def retrain(self, opened: OpenedStudy) -> None:
        """Trains the best configuration of a study on every fresh seed."""
        plan, best, seeds = opened.plan, opened.best, self.benchmark.sweep.seeds
        if best is None:
            self.display.note(f"{plan.title}: no trial finished, so there is nothing to retrain")
            return
        # A study of its own, whose one dimension is the seed and which only has what is queued: what
        # MLflow lacks, whatever Optuna has of it.
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
        """Takes trials of a study until it has none left and no other process runs one."""
        settings, waiting = self.benchmark.sweep, False
        while True:
            # The machine first: who waited for it draws knowing how the trial before came out.
            with nullcontext() if self.share_machine else machine(self.display):
                try:
                    with self.studies.lock():
                        trial = hand_out(study, budget, draw, settings.sampler, self.studies.signs)
                    if trial is not None:
                        with self.studies.heartbeats(trial):
                            train(trial)
                        continue
                except KeyboardInterrupt:
                    with self.studies.lock():
                        take_back(study, self.studies.signs)
                    raise
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
        """Stores the sweep as far as it has come; returns what is still missing."""
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
