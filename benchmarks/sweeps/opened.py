"""A study as it is stored: in Optuna's storage and as a run of MLflow."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from paceline.benchmarks.sweeps.drawing import importance
from paceline.benchmarks.sweeps.handing_out import REASON, counted, queue
from paceline.benchmarks.sweeps.objectives import chosen
from paceline.benchmarks.sweeps.plan import StudyPlan
from paceline.benchmarks.sweeps.studies import Studies
from paceline.benchmarks.trials.tracking import BenchmarkRun

DRAWN, RUN_IDS = "drawn", "run_ids"  # attributes of a trial: its parameters, its runs in MLflow


@dataclass(frozen=True)
class OpenedStudy:
    """A study as it is stored: in Optuna's storage and as a run of MLflow."""

    plan: StudyPlan
    study: Study
    run_id: str

    @property
    def best(self) -> FrozenTrial | None:
        """The trial to retrain."""
        return chosen(self.study.get_trials(states=(TrialState.COMPLETE,)))

    def record(self) -> dict[str, Any]:
        """Returns the facts about the study that a report needs."""
        best = self.best
        return {
            "name": self.study.study_name,
            "run_id": self.run_id,
            "algorithm": self.plan.label,
            "workers": self.plan.workers,
            "space": {name: asdict(d) for name, d in self.plan.space().items()},
            "yaml": self.plan.queue()[0],
            "trials": [_trial_record(trial) for trial in counted(self.study.get_trials())],
            "best": best and best.number,
            "front": [trial.number for trial in self.study.best_trials] if best else [],
            "importance": importance(self.study),
        }


def open_study(
    plan: StudyPlan, studies: Studies, parent: BenchmarkRun, facts: Mapping[str, Any]
) -> OpenedStudy:
    name = plan.name(facts)
    study = studies.study(name, len(plan.benchmark.sweep.objectives))
    queue(study, plan.queue())
    return OpenedStudy(plan, study, parent.nested(name, plan.title))


def _trial_record(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name,
        "drawn": trial.user_attrs.get(DRAWN, {}),
        "values": trial.values if trial.state == TrialState.COMPLETE else None,
        "excess": max(trial.constraints.values(), default=0.0),
        "reason": trial.user_attrs.get(REASON),
        "seconds": trial.duration and trial.duration.total_seconds(),
        "run_ids": trial.user_attrs.get(RUN_IDS, []),
    }
