"""How a sweep came to the configurations that it retrained: its studies as figures and tables."""

from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from paceline.reports.figures.curves import short_number
from paceline.reports.figures.look import (
    BASELINE_COLOUR,
    BASELINE_MARKER,
    GREY,
    PANELS_A_ROW,
    Look,
    legend,
    looks,
    panels,
    readable_log_ticks,
)
from paceline.reports.measures.groups import NothingToDraw, counted, listed, names, si_bytes
from paceline.reports.measures.results import Results
from paceline.reports.text.answer import NONE, Format

Study = dict[str, Any]
Tried = dict[str, Any]
PANEL_HEIGHT = 1.9  # inches
UNITS = {
    "time_to_target_s": "seconds to target",
    "modelled_time_to_target_s": "modelled seconds to target",
    "bytes_to_target": "bytes sent to target",
    "final_loss": "final validation loss",
    "churn": "churn",
}


def history(results: Results) -> Figure:
    """The first objective of every trial of every study, and the best so far.

    Raises:
        NothingToDraw: no trial of a study came to its end.
    """
    studies = _studies(results)
    if not any(_completed(study) for study in studies):
        raise NothingToDraw("no trial of a study came to its end")
    (objective, *_), trials = _settings(results)["objectives"], _settings(results)["trials"]
    figure, drawn = panels(results, "tuning, trial by trial", len(studies), PANEL_HEIGHT)
    for i, (study, axes) in enumerate(zip(studies, drawn, strict=True)):
        _draw_history(results, study, axes)
        axes.set_title(_title(results, study))
        axes.set_xlim(0.3, max(trials, len(study["trials"])) + 0.7)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("trial of the study")
        axes.set_ylabel(UNITS[objective] if i % PANELS_A_ROW == 0 else "")
    legend(
        figure,
        [
            Line2D([], [], color=GREY, marker="o", ls="", label="ended"),
            Line2D([], [], color=GREY, marker="o", mfc="white", ls="", label="missed the target"),
            Line2D([], [], color=GREY, marker="x", ls="", label="given up or failed"),
            Line2D([], [], color=GREY, drawstyle="steps-post", label="best so far"),
            Line2D([], [], color=GREY, marker="o", ms=9, mfc="none", ls="", label="retrained"),
        ],
    )
    return figure


def _draw_history(results: Results, study: Study, axes: Axes) -> None:
    look, best = _look(results, study), float("inf")
    places, bests = [], []
    for place, trial in enumerate(study["trials"], 1):
        if trial["values"] is None:
            ended = trial["state"] in ("PRUNED", "FAIL")
            if ended:
                transform = axes.get_xaxis_transform()
                axes.plot(place, 0.03, "x", color=look.colour, transform=transform, clip_on=False)
            continue
        first = trial["values"][0]
        _mark(axes, look, study, trial, place, first)
        if trial["excess"] <= 0 and first < best:
            best = first
            places.append(place)
            bests.append(best)
    if bests:
        last = len(study["trials"]) + 0.5
        axes.step([*places, last], [*bests, best], where="post", color=look.colour, lw=1)
    low, high = axes.get_ylim()
    if low > 0 and high > 8 * low:
        axes.set_yscale("log")
        readable_log_ticks(axes)
    if _settings(results)["objectives"][0] == "bytes_to_target":
        axes.yaxis.set_major_formatter(_ticks("bytes_to_target"))


def _mark(axes: Axes, look: Look, study: Study, trial: Tried, x: float, y: float) -> None:
    """A trial that came to its end, hollow where it missed the target, ringed where retrained."""
    missed = trial["excess"] > 0
    axes.plot(x, y, look.marker, color=look.colour, mfc="white" if missed else None)
    if trial["number"] == study["best"]:
        axes.plot(x, y, "o", ms=9, mfc="none", mec=look.colour)


def _ticks(objective: str) -> FuncFormatter:
    in_bytes = objective == "bytes_to_target"
    return FuncFormatter((lambda value, _: si_bytes(value)) if in_bytes else short_number)


def importance(results: Results) -> Figure:
    """The share of each dimension in what makes a trial of each study good.

    Raises:
        NothingToDraw: no study had enough trials, or several dimensions, to tell.
    """
    studies = [study for study in _studies(results) if study["importance"]]
    if not studies:
        raise NothingToDraw("no study had enough trials to tell its dimensions apart")
    most = max(len(study["importance"]) for study in studies)
    height = 0.75 + 0.2 * most
    figure, drawn = panels(results, "importance of what was tuned", len(studies), height)
    for study, axes in zip(studies, drawn, strict=True):
        shares = {name: 100 * share for name, share in study["importance"].items()}
        axes.barh(list(shares), list(shares.values()), color=_look(results, study).colour)
        axes.set_xlim(0, 100)
        axes.set_ylim(most - 0.5, -0.5)
        axes.set_title(_title(results, study))
        axes.set_xlabel("importance (%)")
    return figure


def front(results: Results) -> Figure:
    """The first two objectives against each other, a panel a study, with its Pareto front.

    Raises:
        NothingToDraw: there is one objective only, or no trial came to its end.
    """
    objectives, studies = _settings(results)["objectives"], _studies(results)
    if len(objectives) < 2:
        raise NothingToDraw("the sweep has one objective")
    if not any(_completed(study) for study in studies):
        raise NothingToDraw("no trial of a study came to its end")
    title = f"{UNITS[objectives[1]]} against {UNITS[objectives[0]]}"
    figure, drawn = panels(results, title, len(studies), PANEL_HEIGHT + 0.2)
    for i, (study, axes) in enumerate(zip(studies, drawn, strict=True)):
        look = _look(results, study)
        for trial in _completed(study):
            x, y, *_ = trial["values"]
            _mark(axes, look, study, trial, x, y)
        points = sorted(t["values"][:2] for t in _completed(study) if t["number"] in study["front"])
        if points:
            axes.plot(*zip(*points, strict=True), color=look.colour, lw=1)
        axes.set_title(_title(results, study))
        axes.set_xlabel(UNITS[objectives[0]])
        axes.set_ylabel(UNITS[objectives[1]] if i % PANELS_A_ROW == 0 else "")
        for axis, objective in zip((axes.xaxis, axes.yaxis), objectives, strict=False):
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(_ticks(objective))
    legend(
        figure,
        [
            Line2D([], [], color=GREY, label="Pareto front"),
            Line2D([], [], color=GREY, marker="o", mfc="white", ls="", label="missed the target"),
            Line2D([], [], color=GREY, marker="o", ms=9, mfc="none", ls="", label="retrained"),
        ],
    )
    return figure


CAPTIONS = {
    "tuning_history": (
        "How it was tuned",
        "The first objective of each trial in the order in which they were drawn; the first is the"
        " configuration of the benchmark's YAML. These trials chose the configuration and are not"
        " scored.",
    ),
    "tuning_importance": (
        "What mattered",
        "The share of each dimension in what makes trials good, by PED-ANOVA on the first objective; of"
        " few trials it is rough.",
    ),
    "tuning_front": (
        "Pareto fronts",
        "The first two objectives of the trials that came to their end. Retrained is the one on the"
        " front with the smallest product of objectives.",
    ),
}


def by_study(results: Results) -> dict[str, Results]:
    """The same results with one study of the sweep each, by the study's run in MLflow."""
    benchmark, told = results.benchmark, results.benchmark.get("sweep", {"studies": []})
    return {
        study["run_id"]: replace(
            results, benchmark=benchmark | {"sweep": told | {"studies": [study]}}
        )
        for study in told["studies"]
    }


def protocol(results: Results) -> str:
    """How the sweep was done, in sentences."""
    settings = _settings(results)
    goals = listed([UNITS[name] for name in settings["objectives"]])
    many = "s" if len(settings["tuning_seeds"]) > 1 else ""
    pruner = "" if len(settings["objectives"]) > 1 else f", pruner {settings['pruner']}"
    told = (
        f"Each study had a budget of {counted(settings['trials'], 'configuration')} to minimise {goals}"
        f" (sampler {settings['sampler']}{pruner}), trained on seed{many}"
        f" {listed(settings['tuning_seeds'])}; the best of each was retrained on"
        f" seed{'s' if len(settings['seeds']) > 1 else ''} {listed(settings['seeds'])}, and everything"
        " else in this report is of those retrains alone."
    )
    if left_out := results.benchmark["sweep"]["left_out"]:
        told += f" Left out: {'; '.join(left_out)}."
    return told


def studies(results: Results) -> dict[str, Any]:
    """A row a study: what became of its budget, and what tuning gained."""
    (objective, *_) = _settings(results)["objectives"]
    shown = si_bytes if objective == "bytes_to_target" else "{:.4g}".format
    rows = []
    for study in _studies(results):
        trials = study["trials"]
        states = [trial["state"] for trial in trials]
        first = next((t for t in trials if t["drawn"].items() >= study["yaml"].items()), None)
        best = next((t for t in trials if t["number"] == study["best"]), None)
        seconds = sum(trial["seconds"] or 0 for trial in trials)
        rows.append(
            [
                _title(results, study),
                *[str(states.count(state)) for state in ("COMPLETE", "PRUNED", "FAIL")],
                f"{seconds / 60:.1f}",
                _told(first, shown),
                _told(best, shown),
            ]
        )
    return {
        "title": "Studies",
        "note": protocol(results),
        "widths": [2.6, 0.9, 0.9, 0.9, 1.0, 1.6, 1.6],
        "header": [
            "study",
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
    """A row a study and dimension: what was drawn from, and what was chosen."""
    rows = []
    for study in _studies(results):
        best: dict[str, Any] = {}
        for trial in study["trials"]:
            if trial["number"] == study["best"]:
                best = trial["drawn"]
        for i, (name, dimension) in enumerate(study["space"].items()):
            rows.append(
                [
                    _title(results, study) if i == 0 else "",
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


def _settings(results: Results) -> dict[str, Any]:
    settings: dict[str, Any] = results.benchmark["sweep"]["settings"]
    return settings


def _studies(results: Results) -> list[Study]:
    found: list[Study] = results.benchmark["sweep"]["studies"]
    return found


def _completed(study: Study) -> list[Tried]:
    return [trial for trial in study["trials"] if trial["values"] is not None]


def _title(results: Results, study: Study) -> str:
    name = names(results).get(study["algorithm"], study["algorithm"])
    *fewer, most = study["workers"]
    return f"{name}, {' or '.join([*map(str, fewer), counted(most, 'worker')])}"


def _look(results: Results, study: Study) -> Look:
    """That of the algorithm in the other figures, where it was retrained."""
    own = [look for (label, _), look in looks(results).items() if label == study["algorithm"]]
    return own[0] if own else Look(BASELINE_COLOUR, BASELINE_MARKER)
