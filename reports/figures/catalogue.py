"""The figures of a report by name, drawn from what MLflow holds of a benchmark."""

import io
from collections.abc import Callable

import matplotlib.style
from matplotlib.figure import Figure

from paceline.reports.figures import churn, curves, diagnostics, pareto, scaling, tuning
from paceline.reports.figures.look import STYLE
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
OF_A_SWEEP: dict[str, Callable[[Results], Figure]] = {
    "tuning_history": tuning.history,
    "tuning_importance": tuning.importance,
    "tuning_front": tuning.front,
}


def figures_of(results: Results) -> dict[str, Callable[[Results], Figure]]:
    """The figures that a report of these results has, those of a sweep last."""
    if "sweep" not in results.benchmark:
        return FIGURES
    return FIGURES | OF_A_SWEEP


def svg(draw: Callable[[Results], Figure], results: Results) -> bytes:
    """A figure as SVG, the same bytes for the same results whatever the person's matplotlib style.

    Raises:
        NothingToDraw: the results hold nothing to draw.
    """
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        draw(results).savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
