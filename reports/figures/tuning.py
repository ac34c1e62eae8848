"""Figures of the studies of a sweep: how it chose the configurations that it retrained."""

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
from paceline.reports.measures.groups import NothingToDraw, si_bytes
from paceline.reports.measures.results import Results
from paceline.reports.measures.studies import (
    UNITS,
    Study,
    Tried,
    completed,
    settings_of,
    studies_of,
    title,
)

PANEL_HEIGHT = 1.9  # inches


def history(results: Results) -> Figure:
    """Draws the first objective of every trial of every study, and the best value so far.

    Raises:
        NothingToDraw: no trial of a study completed.
    """
    studies = studies_of(results)
    if not any(completed(study) for study in studies):
        raise NothingToDraw("no trial of a study came to its end")
    (objective, *_), trials = settings_of(results)["objectives"], settings_of(results)["trials"]
    figure, drawn = panels(results, "tuning, trial by trial", len(studies), PANEL_HEIGHT)
    for i, (study, axes) in enumerate(zip(studies, drawn, strict=True)):
        _draw_history(results, study, axes)
        axes.set_title(title(results, study))
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
    if settings_of(results)["objectives"][0] == "bytes_to_target":
        axes.yaxis.set_major_formatter(_ticks("bytes_to_target"))


def _mark(axes: Axes, look: Look, study: Study, trial: Tried, x: float, y: float) -> None:
    """Draws a completed trial. It is hollow if it missed the target and ringed if it was retrained."""
    missed = trial["excess"] > 0
    axes.plot(x, y, look.marker, color=look.colour, mfc="white" if missed else None)
    if trial["number"] == study["best"]:
        axes.plot(x, y, "o", ms=9, mfc="none", mec=look.colour)


def _ticks(objective: str) -> FuncFormatter:
    in_bytes = objective == "bytes_to_target"
    return FuncFormatter((lambda value, _: si_bytes(value)) if in_bytes else short_number)


def importance(results: Results) -> Figure:
    """Draws the importance of each dimension of each study for the first objective.

    Raises:
        NothingToDraw: no study has an importance, which takes enough trials and several dimensions.
    """
    studies = [study for study in studies_of(results) if study["importance"]]
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
        axes.set_title(title(results, study))
        axes.set_xlabel("importance (%)")
    return figure


def front(results: Results) -> Figure:
    """Draws the first two objectives against each other, with a panel and a Pareto front for each study.

    Raises:
        NothingToDraw: there is only one objective, or no trial completed.
    """
    objectives, studies = settings_of(results)["objectives"], studies_of(results)
    if len(objectives) < 2:
        raise NothingToDraw("the sweep has one objective")
    if not any(completed(study) for study in studies):
        raise NothingToDraw("no trial of a study came to its end")
    about = f"{UNITS[objectives[1]]} against {UNITS[objectives[0]]}"
    figure, drawn = panels(results, about, len(studies), PANEL_HEIGHT + 0.2)
    for i, (study, axes) in enumerate(zip(studies, drawn, strict=True)):
        look = _look(results, study)
        for trial in completed(study):
            x, y, *_ = trial["values"]
            _mark(axes, look, study, trial, x, y)
        points = sorted(t["values"][:2] for t in completed(study) if t["number"] in study["front"])
        if points:
            axes.plot(*zip(*points, strict=True), color=look.colour, lw=1)
        axes.set_title(title(results, study))
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


def _look(results: Results, study: Study) -> Look:
    """The look of the algorithm in the other figures, or the baseline's if it was not retrained."""
    own = [look for (label, _), look in looks(results).items() if label == study["algorithm"]]
    return own[0] if own else Look(BASELINE_COLOUR, BASELINE_MARKER)
