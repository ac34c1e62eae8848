"""Sentences and tables on how a sweep chose the configurations that it retrained."""

from typing import Any

from paceline.reports.measures.groups import counted, listed, si_bytes
from paceline.reports.measures.results import Results
from paceline.reports.measures.studies import UNITS, Tried, settings_of, studies_of, title
from paceline.reports.text.answer import NONE, Format

CAPTIONS = {
    "tuning_history": (
        "How it was tuned",
        "The first objective of each trial, in the order of the trials. The first trial has the"
        " configuration of the benchmark's YAML. These trials only chose the configuration. They are not"
        " scored.",
    ),
    "tuning_importance": (
        "What mattered",
        "The importance of each dimension for the first objective, by PED-ANOVA. With few trials it is a"
        " rough estimate.",
    ),
    "tuning_front": (
        "Pareto fronts",
        "The first two objectives of the trials that ran to their end. The trial on the front with the"
        " smallest product of objectives was retrained.",
    ),
}


def protocol(results: Results) -> str:
    """Sentences on how the sweep was done."""
    settings = settings_of(results)
    goals = listed([UNITS[name] for name in settings["objectives"]])
    many = "s" if len(settings["tuning_seeds"]) > 1 else ""
    told = (
        f"Each study had a budget of {counted(settings['trials'], 'configuration')} to minimise {goals}"
        f" (sampler {settings['sampler']}), trained on seed{many}"
        f" {listed(settings['tuning_seeds'])}. The best of each was retrained on"
        f" seed{'s' if len(settings['seeds']) > 1 else ''} {listed(settings['seeds'])}. Everything else"
        " in this report is about these retrains only."
    )
    if left_out := results.benchmark["sweep"]["left_out"]:
        told += f" Left out: {'; '.join(left_out)}."
    return told


def studies(results: Results) -> dict[str, Any]:
    """The table of studies: one row for each, with the use of its budget and the gain by tuning."""
    (objective, *_) = settings_of(results)["objectives"]
    shown = si_bytes if objective == "bytes_to_target" else "{:.4g}".format
    rows = []
    for study in studies_of(results):
        trials = study["trials"]
        states = [trial["state"] for trial in trials]
        first = next((t for t in trials if t["drawn"].items() >= study["yaml"].items()), None)
        best = next((t for t in trials if t["number"] == study["best"]), None)
        seconds = sum(trial["seconds"] or 0 for trial in trials)
        rows.append(
            [
                title(results, study),
                str(len(study["space"])),
                *[str(states.count(state)) for state in ("COMPLETE", "PRUNED", "FAIL")],
                f"{seconds / 60:.1f}",
                _told(first, shown),
                _told(best, shown),
            ]
        )
    return {
        "title": "Studies",
        "note": protocol(results),
        "widths": [2.6, 1.1, 0.9, 0.9, 0.9, 1.0, 1.6, 1.6],
        "header": [
            "study",
            "dimensions",
            "ended",
            "given up",
            "failed",
            "minutes",
            f"{UNITS[objective]}, YAML",
            "the best",
        ],
        "rows": rows,
    }


def _told(trial: Tried | None, shown: Format) -> str:
    if trial is None or trial["values"] is None:
        return NONE
    return shown(trial["values"][0]) + (" (missed)" if trial["excess"] > 0 else "")


def spaces(results: Results) -> dict[str, Any]:
    """The table of search spaces: one row for each dimension of a study, with its range and choice."""
    rows = []
    for study in studies_of(results):
        best: dict[str, Any] = {}
        for trial in study["trials"]:
            if trial["number"] == study["best"]:
                best = trial["drawn"]
        for i, (name, dimension) in enumerate(study["space"].items()):
            rows.append(
                [
                    title(results, study) if i == 0 else "",
                    name,
                    _range(dimension),
                    _short(study["yaml"].get(name)),
                    _short(best.get(name)),
                ]
            )
    return {
        "title": "Search spaces and what was chosen",
        "note": "As the files of the task and of the algorithm state them.",
        "widths": [2.6, 1.6, 2.4, 1.0, 1.0],
        "header": ["study", "dimension", "drawn from", "YAML", "chosen"],
        "rows": rows,
    }


def _range(dimension: dict[str, Any]) -> str:
    if "values" in dimension:
        return ", ".join(_short(value) for value in dimension["values"])
    scale = ", logarithmic" if dimension["log"] else ""
    return f"{_short(dimension['low'])} to {_short(dimension['high'])}{scale}"


def _short(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:.3g}" if isinstance(value, float) else str(value)
