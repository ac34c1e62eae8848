"""The tables behind the figures: ratios with intervals, retrains, claims."""

import itertools
import math
from statistics import fmean
from typing import Any

import pandas as pd

from paceline.reports.measures.claims import read_claims
from paceline.reports.measures.efficiency import hardware
from paceline.reports.measures.groups import (
    MEASURED,
    Timing,
    any_oversubscribed,
    called,
    configurations,
    ended,
    finished,
    names,
    reference,
    target,
    timed,
    timings,
)
from paceline.reports.measures.laws import LAWS, Law, fewest, fit, universal
from paceline.reports.measures.ranking import compare
from paceline.reports.measures.results import Results
from paceline.reports.measures.retrains import reproducibility, served
from paceline.reports.measures.statistics import churn, differing, disagreement
from paceline.reports.measures.verdicts import BAND, judge
from paceline.reports.text import tuning
from paceline.reports.text.answer import NONE

Table = dict[str, Any]
NEGLIGIBLE = 1e-4  # a parameter of a law up to this is shown as 0


def tables(results: Results) -> list[Table]:
    """The tables for which these results have rows.

    Returns:
        For each table, its `title`, `note`, `widths`, `header` and `rows`. A cell has a `text`, and
        `strong` says whether it is bold.
    """
    told = [
        ratios(results),
        *(scaling(results, times) for times in timings(results)),
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
    """The costs of each configuration relative to the reference, with intervals over seeds."""
    shown = {
        "steps_to_target": "steps to target",
        "examples_to_target": "examples to target",
        "time_to_target_s": "seconds to target",
        "modelled_time_to_target_s": f"modelled seconds, {results.link}",
    }
    trials = finished(results)
    rows, name = [], ""
    if len(trials) > 1 and target(results) is not None:
        key = tuple(reference(trials)[["algorithm", "workers"]].iloc[0])
        groups = {
            (algorithm, workers): own for algorithm, workers, own in configurations(ended(results))
        }
        base, name = groups.pop(key), called(results, *key)
        others = {k: own for k, own in groups.items() if own["status"].eq("FINISHED").any()}
        columns = [_ratios([*others.values()], base, column) for column in shown]
        cells = zip(*columns, strict=True)
        rows = [[called(results, *k), *own] for k, own in zip(others, cells, strict=True)]
    return {
        "title": "Relative to the reference",
        "note": f"Each figure is divided by that of {name}. A ratio is the geometric mean over seeds with"
        " its 95 % interval (Student's t on logs, paired by seed). A ratio below 1 means less. Each"
        " interval is for one comparison. A ratio is bold if it differs from 1 after Holm's correction"
        f" for the {len(rows)} comparisons of its column, and if the two figures are at least one"
        " evaluation interval apart. With one seed there is no interval. A modelled time is the computing"
        " time of the slowest rank plus the time to send its bytes over the link. It is meaningful even"
        " if there are more ranks than cores."
        if rows
        else "",
        "widths": [2.4, *([2.0] * len(shown))],
        "header": ["configuration", *shown.values()],
        "rows": rows,
    }


def _ratios(others: list[pd.DataFrame], base: pd.DataFrame, column: str) -> list[Table]:
    """The cells of a column. A cell is strong if its difference counts."""
    missing = [_no_ratio(own, base, column) for own in others]
    found = [
        None if why else compare(own, base, column)
        for own, why in zip(others, missing, strict=True)
    ]
    tested = [each for each in found if each is not None]
    counts = iter(differing([each.found.p for each in tested]))
    return [
        {
            "text": why or str(each or NONE),
            "strong": each is not None and next(counts) and each.resolved,
        }
        for each, why in zip(found, missing, strict=True)
    ]


def _no_ratio(own: pd.DataFrame, base: pd.DataFrame, column: str) -> str | None:
    """Why a figure of a configuration cannot be compared with the reference. None if it can."""
    for rows, who in ((own, ""), (base, "reference: ")):
        reached = int(rows["target_reached"].eq(True).sum())
        if reached < len(rows):
            return who + (f"reached by {reached} of {len(rows)}" if reached else "not reached")
        if column == MEASURED.seconds and any_oversubscribed(rows):
            return f"{who}more ranks than cores"
    return None


def scaling(results: Results, times: Timing = MEASURED) -> Table:
    """The efficiencies of each algorithm by times of one kind, and the laws fitted to its speedup."""
    trials = timed(finished(results), times)
    counts = sorted(int(n) for n in trials["workers"].unique())
    base = trials[trials["algorithm"] == "baseline"]
    kind = results.benchmark["benchmark"]["scale"]["scaling"]
    rows = []
    for label in trials["algorithm"].unique():
        own = trials[trials["algorithm"] == label]
        if own["workers"].max() == 1:
            continue
        if not (own["workers"] == 1).any():
            own = pd.concat([base, own])
        alone = own[own["workers"] == 1]
        speedups = own[times.rate] / alone[times.rate].mean()
        cells = [
            _efficiency(own[own["workers"] == n], alone, trials, times) for n in counts if n > 1
        ]
        points = own["workers"].tolist(), speedups.tolist()
        laws = [_law(law, *points) for law in LAWS[kind].values()]
        rows.append([names(results)[label], *cells, *laws])
    name = ""
    if rows:
        first = reference(trials).iloc[0]
        name = called(results, first["algorithm"], int(first["workers"]))
    what = "a batch of its own" if kind == "weak" else "a part of one batch"
    more = [f"efficiency on {n}" for n in counts if n > 1]
    return {
        "title": f"Scaling ({kind}, {times.how})",
        "note": f"Each worker takes {what} at every step. Hardware efficiency is the examples/s"
        f" ({times.how}) of one worker divided by those of one worker of {name}, as in the figure."
        " Scaling efficiency, in brackets, divides by those of the same algorithm on one worker, or of"
        " the baseline if the algorithm did not run on one. The laws are fitted to the speedups over that"
        " one worker, with all seeds, by relative errors. Their parameters are at least 0. A law"
        " is fitted only if there are more numbers of workers beyond one than parameters. The largest"
        " deviation of a point is in brackets. Amdahl's law, for strong scaling only, gives the share of"
        " the work that is not divided. The Universal Scalability Law gives contention, coherency and, if"
        " it follows from them, the number of workers from which more workers are slower.",
        "widths": [2.4, *([1.2] * len(more)), *([3.0] * len(LAWS[kind]))],
        "header": ["algorithm", *more, *LAWS[kind]],
        "rows": rows,
    }


def _efficiency(own: pd.DataFrame, alone: pd.DataFrame, trials: pd.DataFrame, times: Timing) -> str:
    """Hardware efficiency, and scaling efficiency in brackets."""
    if own.empty:
        return NONE
    bases = (reference(trials), alone)
    of_reference, of_itself = (hardware(own, base, times.rate).mean() for base in bases)
    itself = NONE if math.isnan(of_itself) else f"{of_itself:.2f}"
    return f"{of_reference:.2f} ({itself})"


def _law(law: Law, workers: list[float], speedups: list[float]) -> str:
    if any(math.isnan(speedup) for speedup in speedups) or 1 not in workers:
        return "no single worker"
    found = fit(law, workers, speedups)
    if found is None:
        return f"fewer than {fewest(law)} numbers of workers"
    shown = ", ".join(f"{p:.3g}" if p > NEGLIGIBLE else "0" for p in found.parameters)
    if law is universal and found.parameters[1] > NEGLIGIBLE:
        contention, coherency = found.parameters
        shown += f"; most on {math.sqrt((1 - contention) / coherency):.1f}"
    return f"{shown} ({found.deviation:.1%})"


def retrains(results: Results) -> Table:
    """How much retrains with different seeds differ, for each configuration with several seeds."""
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
        "note": "The table compares trials that differ only in their seed, on the first validation rows."
        " Churn is the mean absolute difference of the predicted probabilities. Disagreement is the share"
        " of rows with a different label. Both are means over the pairs of seeds. If replicas stay"
        " separate, the table shows the first replica and the ensemble of all.",
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
    """The table of the kinds of reproducibility."""
    return {
        "title": "Reproducibility",
        "note": "This is about the finished trials. Weights are equal if their SHA-256 hashes are equal.",
        "widths": [2.2, 5.0],
        "header": ["kind", "found"],
        "rows": [] if finished(results).empty else reproducibility(results),
    }


def claims(results: Results) -> Table:
    """The verdicts on the papers' claims that this benchmark tests."""
    verdicts = [judge(claim, results) for claim in read_claims()]
    rows = [
        [
            {
                "text": verdict.outcome,
                "strong": verdict.outcome in ("reproduced", "not reproduced"),
            },
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
        "note": "A claim is reproduced if the 95 % interval of the ratio lies within its bound, at the"
        f" target and at targets {100 * BAND:g} % lower and higher. It is not reproduced if the interval"
        " lies beyond the bound. Otherwise, or with one seed, it is inconclusive. A trial that failed or"
        " missed the target needs more than it had spent. By construction means that the ratio follows"
        " from how the algorithms are built, so the verdict checks the code. Verdicts are not corrected"
        f" for the {len(rows)} claims. They hold for this workload, this scale and these settings.",
        "widths": [1.2, 3.4, 2.2, 1.0, 1.6],
        "header": ["verdict", "claim", "tested by", "bound", "measured"],
        "rows": rows,
    }
