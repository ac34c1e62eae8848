"""Reads the studies of a sweep from its record."""

from dataclasses import replace
from typing import Any

from paceline.reports.measures.groups import counted, names
from paceline.reports.measures.results import Results

Study = dict[str, Any]
Tried = dict[str, Any]
UNITS = {
    "time_to_target_s": "seconds to target",
    "modelled_time_to_target_s": "modelled seconds to target",
    "bytes_to_target": "bytes sent to target",
    "final_loss": "final validation loss",
    "churn": "churn",
}


def by_study(results: Results) -> dict[str, Results]:
    """For each study of the sweep, the results with that study alone, by the study's run id in MLflow."""
    benchmark, told = results.benchmark, results.benchmark.get("sweep", {"studies": []})
    return {
        study["run_id"]: replace(
            results, benchmark=benchmark | {"sweep": told | {"studies": [study]}}
        )
        for study in told["studies"]
    }


def settings_of(results: Results) -> dict[str, Any]:
    """The settings of the sweep: the section `sweep` of the benchmark."""
    settings: dict[str, Any] = results.benchmark["sweep"]["settings"]
    return settings


def studies_of(results: Results) -> list[Study]:
    """The studies of the sweep, as `benchmarks.sweeps.opened` records them."""
    found: list[Study] = results.benchmark["sweep"]["studies"]
    return found


def completed(study: Study) -> list[Tried]:
    """The trials of a study that have values."""
    return [trial for trial in study["trials"] if trial["values"] is not None]


def title(results: Results, study: Study) -> str:
    """The title of a study, e.g. `Downpour SGD, 2 workers`."""
    name = names(results).get(study["algorithm"], study["algorithm"])
    *fewer, most = study["workers"]
    return f"{name}, {' or '.join([*map(str, fewer), counted(most, 'worker')])}"
