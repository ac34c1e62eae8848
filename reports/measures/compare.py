"""Two benchmarks, or two runs of one: what differs between them, and whether it made a difference."""

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
    """A figure that two runs are compared by.

    Attributes:
        title: what it is called.
        less: the verdict where the second run has less of it.
        more: where it has more.
        alike: what has to be alike in both, by the beginnings of the names in `differences`.
        seeds_matter: whether a seed decides anything of it.
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
    """What became of one figure of one configuration: `ratio` is that of the second run to the first."""

    algorithm: str
    workers: int
    figure: Figure
    ratio: Ratio
    verdict: str


def find(client: MlflowClient, name_or_run: str, link: str) -> Results:
    """The newest run of the benchmark of that name, or the run of that id, however old.

    Raises:
        NoResults: there is neither.
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
    """By its name, everything that is not alike: settings, data, code, versions, hardware."""
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
    codes = {record["facts"]["code"] for record in results.records.values() if "facts" in record}
    yield "code of the trials", ", ".join(sorted(codes))


def _flat(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def compare(first: Results, second: Results) -> list[Compared]:
    """Every figure of every configuration that is in both, the second run's over the first's.

    All ratios together are corrected by Holm's procedure: of two runs that are alike, the chance that
    anything is called different is at most 5 %.
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
    """The configurations that only the first has, and those that only the second has."""
    one, other = (dict(_ended(results)) for results in (first, second))
    return [[key for key in one if key not in other], [key for key in other if key not in one]]


def _ended(results: Results) -> Iterator[tuple[tuple[str, int], pd.DataFrame]]:
    """The trials of each configuration that finished or failed; one that failed has no figures."""
    trials = results.trials[results.trials["status"].isin(["FINISHED", "FAILED"])]
    blank = trials[[*FIGURES]].where(trials["status"] == "FINISHED")
    for algorithm, workers, own in configurations(trials.assign(**blank)):
        yield (algorithm, workers), own


def _lacking(
    before: pd.DataFrame, after: pd.DataFrame, figure: Figure, unlike: Mapping[str, Any]
) -> Ratio | None:
    """No ratio, where what a figure presupposes is not alike; None where it is."""
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
