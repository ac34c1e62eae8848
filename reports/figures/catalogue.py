"""The figures of a report by name. They are drawn from what MLflow holds of a benchmark."""

import io
from collections.abc import Callable
from functools import partial

import matplotlib.style
from matplotlib.figure import Figure

from paceline.reports.figures import churn, curves, diagnostics, pareto, scaling, tuning
from paceline.reports.figures.look import STYLE
from paceline.reports.measures.groups import Timing, modelled, timings
from paceline.reports.measures.results import Results

FIGURES: dict[str, Callable[[Results], Figure]] = {
    "loss_against_steps": curves.loss_against_steps,
    "loss_against_examples": curves.loss_against_examples,
    "loss_against_seconds": curves.loss_against_seconds,
    "loss_against_bytes": curves.loss_against_bytes,
    "efficiency": scaling.efficiency,
    "pareto": pareto.pareto,
    "speedup": scaling.speedup,
    "bytes_sent": scaling.bytes_sent,
    "churn_matrix": churn.churn_matrix,
    "staleness": diagnostics.staleness,
    "residuals": diagnostics.residuals,
    "divergence": diagnostics.divergence,
}
# The figures that compare times. They are drawn again with modelled times if measured times say nothing.
TIMED: dict[str, Callable[[Results, Timing], Figure]] = {
    "efficiency": scaling.efficiency,
    "pareto": pareto.pareto,
    "speedup": scaling.speedup,
}
MODELLED = "_modelled"  # the suffix of the name of such a second figure
OF_A_SWEEP: dict[str, Callable[[Results], Figure]] = {
    "tuning_history": tuning.history,
    "tuning_importance": tuning.importance,
    "tuning_front": tuning.front,
}


EVERY_NAME = [*FIGURES, *(name + MODELLED for name in TIMED), *OF_A_SWEEP]


def figures_of(results: Results) -> dict[str, Callable[[Results], Figure]]:
    """The figures that a report of these results has. Those of a sweep come last."""
    found: dict[str, Callable[[Results], Figure]] = {}
    for name, draw in FIGURES.items():
        found[name] = draw
        if name in TIMED and len(timings(results)) > 1:
            found[name + MODELLED] = partial(_with_modelled_times, TIMED[name])
    return found | OF_A_SWEEP if "sweep" in results.benchmark else found


def _with_modelled_times(draw: Callable[[Results, Timing], Figure], results: Results) -> Figure:
    return draw(results, modelled(results))


def svg(draw: Callable[[Results], Figure], results: Results) -> bytes:
    """Draws a figure as SVG.

    The same results give the same bytes, whatever matplotlib style the user has set.

    Raises:
        NothingToDraw: the results have nothing that this figure can show.
    """
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        draw(results).savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
