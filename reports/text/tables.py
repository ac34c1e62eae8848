"""The tables behind the figures: ratios with intervals, retrains, claims."""

import itertools
import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

import pandas as pd

from paceline.reports.measures.claims import judge, read_claims
from paceline.reports.measures.groups import (
    called,
    configurations,
    finished,
    names,
    reference,
    timing,
)
from paceline.reports.measures.laws import FEWEST, amdahl, fit, universal
from paceline.reports.measures.results import Results
from paceline.reports.measures.retrains import reproducibility, served
from paceline.reports.measures.statistics import Ratio, churn, disagreement, ratio
from paceline.reports.text import tuning

Table = dict[str, Any]
LAWS = (amdahl, universal)
NEGLIGIBLE = 1e-4  # a parameter of a law


def tables(results: Results) -> list[Table]:
    """Those tables that these results can fill: `title`, `note`, `widths`, `header` and `rows`.

    A cell has its `text` and whether it is `strong`.
    """
    told = [
        ratios(results),
        scaling(results),
        retrains(results),
        sameness(results),
        claims(results),
    ]
    if "sweep" in results.benchmark:
        told = [tuning.studies(results), tuning.spaces(results), *told]
    drawn = [table for table in told if table["rows"]]
    for table in drawn:
        table["rows"] = [[_cell(cell) for cell in row] for row in table["rows"]]
    return drawn


def _cell(content: str | Table) -> Table:
    return {"text": content, "strong": False} if isinstance(content, str) else content


def ratios(results: Results) -> Table:
    """What each configuration needs, relative to the reference, with its interval over seeds."""
    shown = {
        "steps_to_target": "steps to target",
        "examples_to_target": "examples to target",
        "time_to_target_s": "seconds to target",
        "modelled_time_to_target_s": f"modelled seconds, {results.link}",
    }
    trials = finished(results)
    rows = []
    if len(trials) > 1:
        base = reference(results)
        name = called(results, base["algorithm"].iloc[0], int(base["workers"].iloc[0]))
        for algorithm, workers, own in configurations(trials):
            if own["run_id"].tolist() == base["run_id"].tolist():
                continue
            cells = [_ratio(own, base, column) for column in shown]
            rows.append([called(results, algorithm, workers), *cells])
    return {
        "title": "Relative to the reference",
        "note": f"Each figure over that of {name}: geometric mean over seeds and its 95 % bootstrap"
        " interval, paired by seed. Below 1 is less. A difference counts (bold) where the interval leaves"
        " out 1; one seed has no interval. Modelled: what the slowest rank computes and then, over the"
        " link, what it sends; it means something also where ranks outnumber cores."
        if rows
        else "",
        "widths": [2.4, *([2.0] * len(shown))],
        "header": ["configuration", *shown.values()],
        "rows": rows,
    }


def _ratio(own: pd.DataFrame, base: pd.DataFrame, column: str) -> dict[str, Any]:
    of, against = (rows.set_index("seed")[column].astype(float) for rows in (own, base))
    if of.isna().any() or against.isna().any():
        return {"text": "not reached", "strong": False}
    paired = set(of.index) == set(against.index)
    found: Ratio = ratio(of.sort_index().tolist(), against.sort_index().tolist(), paired)
    return {"text": str(found), "strong": found.differs}


def scaling(results: Results) -> Table:
    """What more workers bring each algorithm, and the laws fitted to it."""
    times, trials = timing(results), finished(results)
    counts = sorted(int(n) for n in trials["workers"].unique())
    base = trials[trials["algorithm"] == "baseline"]
    rows = []
    for label in trials["algorithm"].unique():
        own = trials[trials["algorithm"] == label]
        if own["workers"].max() == 1:
            continue
        if not (own["workers"] == 1).any():
            own = pd.concat([base, own])
        alone = own.loc[own["workers"] == 1, times.rate].mean()
        speedups = own[times.rate] / alone
        efficiencies = (speedups / own["workers"]).groupby(own["workers"]).mean().dropna()
        cells = [f"{efficiencies[n]:.2f}" if n in efficiencies else "–" for n in counts if n > 1]
        laws = [_law(law, own["workers"].tolist(), speedups.tolist()) for law in LAWS]
        rows.append([names(results)[label], *cells, *laws])
    kind = results.benchmark["benchmark"]["scale"]["scaling"]
    what = "a batch of its own" if kind == "weak" else "a part of one batch"
    more = [f"efficiency on {n}" for n in counts if n > 1]
    return {
        "title": f"Scaling ({kind})",
        "note": f"Each worker takes {what} at every step. Efficiency: examples/s ({times.how}) over as"
        " many times those of the same algorithm on one worker, or of the baseline where it has none."
        " Laws are fitted to all seeds, in relative terms, with parameters of at least 0; in brackets the"
        " largest deviation of a point. Amdahl: the share of the work that is not shared out. Universal"
        " Scalability Law: contention, coherency and, where that follows, the number of workers beyond"
        " which more are slower. =: as many parameters as numbers of workers beyond one, so that it could"
        " hardly have missed.",
        "widths": [2.4, *([1.2] * len(more)), 2.2, 3.6],
        "header": ["algorithm", *more, "Amdahl", "Universal Scalability Law"],
        "rows": rows,
    }


def _law(law: Callable[..., Any], workers: list[float], speedups: list[float]) -> str:
    if any(math.isnan(speedup) for speedup in speedups) or 1 not in workers:
        return "no single worker"
    found = fit(law, workers, speedups)
    if found is None:
        return f"fewer than {FEWEST} points"
    shown = ", ".join(f"{p:.3g}" if p > NEGLIGIBLE else "0" for p in found.parameters)
    if law is universal and found.parameters[1] > NEGLIGIBLE:
        contention, coherency = found.parameters
        shown += f"; most on {math.sqrt((1 - contention) / coherency):.1f}"
    return f"{shown} ({found.deviation:.1%}{'' if found.determined else ', ='})"


def retrains(results: Results) -> Table:
    """How far two retrains with different seeds differ, for every configuration with several."""
    rows = []
    for algorithm, workers, own in configurations(finished(results)):
        cells = []
        for server in ("model", "ensemble"):
            pairs = list(itertools.combinations(served(results, own, server).values(), 2))
            for measure in (churn, disagreement):
                cells.append(f"{fmean(measure(*p) for p in pairs):.4f}" if pairs else "–")
        if cells[0] != "–":
            spread = own["final_loss"].astype(float).std()
            seeds = str(own["seed"].nunique())
            rows.append([called(results, algorithm, workers), seeds, f"{spread:.5f}", *cells])
    return {
        "title": "Would you get the same predictions if you trained again?",
        "note": "Between trials that differ in their seed alone, on the first validation rows: churn is"
        " the mean absolute difference of the predicted probabilities, disagreement the share of rows"
        " with another label; means over the pairs of seeds. Of replicas that stay apart, it is that of"
        " the first, and of the ensemble of all.",
        "widths": [2.4, 0.8, 1.6, 1.3, 1.5, 1.5, 1.5],
        "header": [
            "configuration",
            "seeds",
            "deviation of final loss",
            "churn",
            "disagreement",
            "churn of ensemble",
            "its disagreement",
        ],
        "rows": rows,
    }


def sameness(results: Results) -> Table:
    """Reproducibility of three kinds."""
    return {
        "title": "Reproducibility",
        "note": "Of the trials of this benchmark that finished. Equal weights are equal SHA-256 hashes.",
        "widths": [2.2, 5.0],
        "header": ["kind", "found"],
        "rows": [] if finished(results).empty else reproducibility(results),
    }


def claims(results: Results) -> Table:
    """The verdicts on the papers' claims, where this benchmark is the one that tests them."""
    verdicts = [judge(claim, results) for claim in read_claims()]
    rows = [
        [
            {"text": verdict.outcome, "strong": verdict.outcome != "inconclusive"},
            f"{verdict.claim.statement} ({verdict.claim.source})",
            f"{verdict.claim.measure}, {verdict.claim.of} over {verdict.claim.against}",
            verdict.claim.bound,
            verdict.reason or str(verdict.ratio),
        ]
        for verdict in verdicts
        if verdict.claim.benchmark == results.benchmark["name"]
    ]
    return {
        "title": "Claims",
        "note": "Reproduced: the 95 % interval of the ratio lies within the claim's bound; not"
        " reproduced: it lies beyond, or the target was missed; inconclusive: neither, or one seed."
        " On this workload, this scale and these settings.",
        "widths": [1.2, 3.4, 2.2, 1.0, 1.6],
        "header": ["verdict", "claim", "tested by", "bound", "measured"],
        "rows": rows,
    }
