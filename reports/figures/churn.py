"""A matrix of the churn between configurations."""

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from paceline.reports.figures.look import panel
from paceline.reports.measures.groups import NothingToDraw, configurations, counted, finished, names
from paceline.reports.measures.results import Results
from paceline.reports.measures.retrains import mean_churn, served


def churn_matrix(results: Results) -> Figure:
    """Draws the churn between every two configurations, and on the diagonal between retrains of one.

    Raises:
        NothingToDraw: no configuration has predictions of several seeds.
    """
    groups = [(a, n, served(results, own)) for a, n, own in configurations(finished(results))]
    groups = [(a, n, by_seed) for a, n, by_seed in groups if len(by_seed) > 1]
    if not groups:
        raise NothingToDraw("no configuration finished with several seeds and kept predictions")
    size = len(groups)
    figure, axes = panel(results, "churn (thousandths)", 1.0 + max(1.2, 0.215 * size))
    matrix = np.full((size, size), np.nan)
    for row, column in zip(*np.tril_indices(size), strict=True):
        matrix[row, column] = 1000 * mean_churn(groups[row][2], groups[column][2])
    darkest = np.nanmax(matrix)
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1.3 * darkest or 1, aspect="auto")
    for row, column in zip(*np.nonzero(~np.isnan(matrix)), strict=True):
        value = matrix[row, column]
        shown = f"{value:.0f}" if darkest >= 10 else f"{value:.1f}"
        style: dict[str, Any] = {"fontweight": "bold"} if row == column else {}
        dark = "white" if value > 0.8 * darkest else "black"
        axes.text(column, row, shown, ha="center", va="center", fontsize=6, color=dark, **style)
    rows = [
        f"{names(results)[algorithm]}, {counted(workers, 'worker')}: {i}"
        for i, (algorithm, workers, _) in enumerate(groups, start=1)
    ]
    axes.set_yticks(range(size), [fill(text, 60) for text in rows])
    axes.set_xticks(range(size), [str(i) for i in range(1, size + 1)])
    axes.set_xlabel("configuration, by its number on the left")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return figure
