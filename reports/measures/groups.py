"""Groups the trials of a benchmark and names them for the report."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from paceline.reports.measures.remarks import UNRANKED, remarked
from paceline.reports.measures.results import ENDED, Results


class NothingToDraw(ValueError):
    """The results have nothing that this figure can show. The message says what is missing."""


@dataclass(frozen=True)
class Timing:
    """The columns of times by which trials are compared.

    Attributes:
        rate: the column of examples per second.
        seconds: the column of seconds to the target.
        how: the kind of time, as a report writes it in brackets.
    """

    rate: str
    seconds: str
    how: str


MEASURED = Timing("examples_per_s", "time_to_target_s", "measured")


def modelled(results: Results) -> Timing:
    """The columns of times that are modelled over the link of these results."""
    how = f"modelled, {results.link}"
    return Timing("modelled_examples_per_s", "modelled_time_to_target_s", how)


def timings(results: Results) -> list[Timing]:
    """The kinds of times to show. Measured and modelled times cannot be compared with each other.

    Modelled times are included if the ranks of a finished trial shared cores. The measured times of
    such a trial say nothing.
    """
    return [MEASURED, modelled(results)] if any_oversubscribed(finished(results)) else [MEASURED]


def timed(trials: pd.DataFrame, times: Timing) -> pd.DataFrame:
    """The trials whose times of this kind are meaningful."""
    return trials[~trials["oversubscribed"].eq(True)] if times == MEASURED else trials


def target(results: Results) -> float | None:
    """The validation loss to reach. None if the workload has no target."""
    loss: float | None = results.benchmark["benchmark"]["workload"]["target"]["loss"]
    return loss


def names(results: Results) -> dict[str, str]:
    """The name of each algorithm in the report: its title, and its label if two share a title."""
    titles = results.benchmark["titles"]
    shared = {t for t in titles.values() if list(titles.values()).count(t) > 1}
    return {k: f"{title} ({k})" if title in shared else title for k, title in titles.items()}


def called(results: Results, algorithm: str, workers: int) -> str:
    """A configuration in words, e.g. `Downpour SGD on 2 workers`."""
    return f"{names(results)[algorithm]} on {counted(workers, 'worker')}"


def counted(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(values: list[Any]) -> str:
    """`1`, `1 and 2`, `1, 2 and 4`."""
    *head, last = (str(value) for value in values)
    return f"{', '.join(head)} and {last}" if head else last


def si_bytes(number: float) -> str:
    """Bytes with a decimal prefix and three significant digits, e.g. `1.96 GB`."""
    for exponent, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if number >= 0.9995 * 10**exponent:
            return f"{number / 10**exponent:#.3g}".rstrip(".") + f" {unit}"
    return f"{number:.0f} B"


def finished(results: Results) -> pd.DataFrame:
    """The trials with the status FINISHED."""
    return results.trials.loc[results.trials["status"] == "FINISHED"]


def ended(results: Results) -> pd.DataFrame:
    """The trials that have ended: finished, failed or killed."""
    return results.trials.loc[results.trials["status"].isin(ENDED)]


def configurations(rows: pd.DataFrame) -> list[tuple[str, int, pd.DataFrame]]:
    """Groups rows of trials or of curves by algorithm and workers, in the order of the rows."""
    groups: Any = rows.groupby(["algorithm", "workers"], sort=False)
    return [(algorithm, int(workers), own) for (algorithm, workers), own in groups]


def always_reached(results: Results) -> list[tuple[str, int, pd.DataFrame]]:
    """The configurations in which every trial that ended reached the target.

    Only these have costs that can be compared. A mean over the successful trials alone would mislead:
    it would leave out the trials that diverged or failed.
    """
    groups = configurations(ended(results))
    return [group for group in groups if group[2]["target_reached"].eq(True).all()]


def rankable(trials: pd.DataFrame) -> bool:
    """Whether these trials may be ranked. A remark in `UNRANKED` forbids it."""
    return not set(remarked(trials)) & set(UNRANKED)


def ranked(results: Results) -> list[tuple[str, int, pd.DataFrame]]:
    """The configurations that always reached the target and may be ranked."""
    return [group for group in always_reached(results) if rankable(group[2])]


def without_target(results: Results) -> dict[str, list[int]]:
    """The configurations in which a trial ended without the target: workers by algorithm."""
    if target(results) is None:
        return {}
    trials = ended(results)
    missed: dict[str, list[int]] = {}
    for algorithm, workers, _ in configurations(trials[~trials["target_reached"].eq(True)]):
        missed.setdefault(algorithm, []).append(workers)
    return missed


def has_test_part(results: Results) -> bool:
    """Whether the data have a part that is used neither for training nor for validation."""
    return bool(results.trials["test_loss"].notna().any())


def any_oversubscribed(trials: pd.DataFrame) -> bool:
    """Whether one of these trials had more ranks than cores."""
    return bool(trials["oversubscribed"].eq(True).any())


def crowded(results: Results) -> set[int]:
    """The numbers of workers at which a trial had more ranks than cores."""
    trials = results.trials
    return set(trials.loc[trials["oversubscribed"].eq(True), "workers"].astype(int))


def several_seeds(results: Results) -> bool:
    """Whether any configuration finished with more than one seed and so has a spread."""
    return any(len(rows) > 1 for _, _, rows in configurations(finished(results)))


def reference(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with which others are compared. Their speedup and efficiency are 1.

    They are the trials on the fewest workers. If the baseline ran on that number of workers, they are
    the baseline's. Otherwise they are those of the first algorithm.

    Args:
        trials: the finished trials of several configurations.

    Raises:
        NothingToDraw: no trial finished.
    """
    if trials.empty:
        raise NothingToDraw("no trial finished")
    fewest = trials[trials["workers"] == trials["workers"].min()]
    labels = fewest["algorithm"].tolist()
    chosen = "baseline" if "baseline" in labels else labels[0]
    base: pd.DataFrame = fewest[fewest["algorithm"] == chosen]
    return base
