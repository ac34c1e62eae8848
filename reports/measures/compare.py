"""Compares two benchmarks, or two runs of one: their settings and their figures."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from paceline.reports.measures.groups import configurations
from paceline.reports.measures.results import (
    KIND,
    NoResults,
    Results,
    load_run,
    parents,
)
from paceline.reports.measures.statistics import Ratio, by_seed, differing, ratio

DATA, TARGET, BUDGET = "data.fingerprint", "workload.target.", "workload.budget."


@dataclass(frozen=True)
class Figure:
    """A figure by which two runs are compared.

    Attributes:
        title: the name of the figure.
        less: the verdict if the second run has a lower value.
        more: the verdict if the second run has a higher value.
        alike: what must be equal in both runs. Each entry is a prefix of names in `differences`.
        seeds_matter: whether the figure depends on the seed.
    """

    title: str
    less: str
    more: str
    alike: tuple[str, ...] = ()
    seeds_matter: bool = True


FIGURES = {
    "examples_per_s": Figure("examples/s", "slower", "faster", seeds_matter=False),
    "time_to_target_s": Figure("seconds to target", "faster", "slower", (DATA, TARGET, BUDGET)),
    "steps_to_target": Figure("steps to target", "fewer", "more", (DATA, TARGET, BUDGET)),
    "bytes_sent_per_worker": Figure("bytes sent per worker", "fewer", "more", (BUDGET,)),
    "final_loss": Figure("final loss", "lower", "higher", (DATA, BUDGET)),
}
SAME = "no difference shown"


@dataclass(frozen=True)
class Compared:
    """The comparison of one figure of one configuration.

    Attributes:
        algorithm: the label of the algorithm.
        workers: the number of workers.
        figure: the figure that is compared.
        ratio: the figure of the second run divided by that of the first.
        verdict: the result of the comparison in words.
    """

    algorithm: str
    workers: int
    figure: Figure
    ratio: Ratio
    verdict: str


def find(client: MlflowClient, name_or_run: str, link: str) -> Results:
    """Loads the newest run of the benchmark with this name, or the run with this id.

    Raises:
        NoResults: there is no such benchmark and no such run.
    """
    if named := parents(client, name_or_run):
        return load_run(client, named[0], link, with_predictions=False)
    try:
        run = client.get_run(name_or_run)
    except MlflowException:
        run = None
    if run is None or run.data.tags.get(KIND) != "benchmark":
        raise NoResults(
            f"{name_or_run!r} is neither a benchmark that was run nor the id of its run"
        )
    return load_run(client, run, link, with_predictions=False)


def differences(first: Results, second: Results) -> dict[str, tuple[Any, Any]]:
    """The settings, data, code, versions and hardware that differ, by name, with both values."""
    one, other = (dict(_stated(results)) for results in (first, second))
    return {
        name: (one.get(name), other.get(name))
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    }


def _stated(results: Results) -> Iterator[tuple[str, Any]]:
    facts = results.benchmark
    yield from _flat(facts["benchmark"], "")
    yield from _flat(facts["environment"], "")
    yield "data.name", facts["data"]["name"]
    yield DATA, facts["data"]["fingerprint"]
    for record in results.records.values():
        if "facts" in record:
            yield from _flat({"code": record["facts"]["code"]}, "")


def _flat(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def compare(first: Results, second: Results) -> list[Compared]:
    """Compares every figure of every configuration that both runs have.

    Each ratio is the figure of the second run divided by that of the first. Holm's procedure corrects
    all ratios together. If the two runs are equal, the chance that any figure is called different is
    at most 5 %.
    """
    unlike = differences(first, second)
    sides = [dict(_ended(results)) for results in (first, second)]
    compared = []
    for configuration in [key for key in sides[0] if key in sides[1]]:
        before, after = (side[configuration] for side in sides)
        for column, figure in FIGURES.items():
            found = _lacking(before, after, figure, unlike) or ratio(
                by_seed(after, column), by_seed(before, column), figure.seeds_matter
            )
            compared.append((*configuration, figure, found))
    marks = differing([found.p for *_, found in compared])
    return [
        Compared(algorithm, workers, figure, found, _verdict(figure, found, differs))
        for (algorithm, workers, figure, found), differs in zip(compared, marks, strict=True)
    ]


def alone(first: Results, second: Results) -> list[list[tuple[str, int]]]:
    """The configurations that only the first run has, and those that only the second run has."""
    one, other = (dict(_ended(results)) for results in (first, second))
    return [[key for key in one if key not in other], [key for key in other if key not in one]]


def _ended(results: Results) -> Iterator[tuple[tuple[str, int], pd.DataFrame]]:
    """The trials of each configuration that finished or failed. A failed trial has no figures."""
    trials = results.trials[results.trials["status"].isin(["FINISHED", "FAILED"])]
    blank = trials[[*FIGURES]].where(trials["status"] == "FINISHED")
    for algorithm, workers, own in configurations(trials.assign(**blank)):
        yield (algorithm, workers), own


def _lacking(
    before: pd.DataFrame, after: pd.DataFrame, figure: Figure, unlike: Mapping[str, Any]
) -> Ratio | None:
    """A ratio of NaN with the reason, if the runs may not be compared by this figure; else None."""
    if before["run_id"].tolist() == after["run_id"].tolist():
        return Ratio(math.nan, note="both have the same trials")
    own = f"algorithms.{before['algorithm'].iloc[0]}.budget"
    presupposed = (*figure.alike, *([own] if BUDGET in figure.alike else []))
    reasons = [name for name in unlike if name.startswith(presupposed)] if figure.alike else []
    return Ratio(math.nan, note=f"{reasons[0]} differs") if reasons else None


def _verdict(figure: Figure, found: Ratio, differs: bool) -> str:
    if math.isnan(found.p):
        return f"cannot be compared: {found.note}"
    if not differs:
        return SAME
    return figure.more if found.value > 1 else figure.less
