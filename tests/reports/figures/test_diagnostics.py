"""The figures of what single algorithms tell of themselves."""

import pytest

from paceline.reports import pdf
from paceline.reports.figures import catalogue, diagnostics
from paceline.reports.measures.groups import NothingToDraw
from paceline.reports.measures.results import Results
from tests.drawn import legend_of, lines_of, text_in


def test_staleness_is_the_share_of_all_pushes_with_the_mean_marked(every: Results) -> None:
    figure = diagnostics.staleness(every)
    two, four = figure.axes
    outlines = [axes.patches[0].get_path().vertices.tolist() for axes in (two, four)]
    for edge, share in ((-0.5, 25), (0.5, 50), (1.5, 25)):
        assert [edge, share] in outlines[0]
    for edge, share in ((-0.5, 25), (0.5, 50), (3.5, 25)):
        assert [edge, share] in outlines[1]
    assert [line.get_xdata()[0] for axes in (two, four) for line in axes.lines] == [1.0, 1.5]
    assert {"mean 1.00", "mean 1.50"} <= set(text_in(figure))
    assert list(legend_of(figure)) == ["Downpour SGD"]


def test_residuals_are_two_lines_on_a_logarithmic_axis(every: Results) -> None:
    figure = diagnostics.residuals(every)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        primal, dual = lines_of(axes, 4)
        assert axes.get_yscale() == "log"
        assert list(primal.get_ydata()) == pytest.approx([2.5] * 4)
        assert list(dual.get_ydata()) == pytest.approx([0.02] * 4)
        assert (primal.get_linestyle(), dual.get_linestyle()) == ("-", "--")
        assert len(axes.collections) == 2
    assert list(legend_of(figure)) == ["consensus ADMM", "primal", "dual"]


def test_divergence_is_drawn_for_each_entry_that_reports_it(every: Results) -> None:
    for axes in diagnostics.divergence(every).axes:
        assert [list(line.get_ydata()) for line in lines_of(axes, 4)] == [
            pytest.approx([1 / 100, 1 / 200, 1 / 300, 1 / 400])
        ] * 2


@pytest.mark.parametrize("name", ["staleness", "residuals", "divergence"])
def test_figures_of_algorithms_that_did_not_run_are_not_drawn(name: str, whole: Results) -> None:
    with pytest.raises(NothingToDraw, match="no trial that finished"):
        catalogue.FIGURES[name](whole)
    assert name in pdf.draw(whole)[1]
