"""The first page of a report: what was measured, in sentences and in one table."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from paceline.reports.measures.groups import (
    always_reached,
    any_oversubscribed,
    called,
    configurations,
    counted,
    finished,
    listed,
    names,
    several_seeds,
    si_bytes,
)
from paceline.reports.measures.results import Results

NONE = "–"
TIES = 3  # so many configurations are named
Format = Callable[[Any], str]


def answer(results: Results) -> list[str]:
    """The sentences before everything else: what was measured, and how far it carries."""
    trials, ended = results.trials, finished(results)
    goal = f"the target of {results.benchmark['benchmark']['workload']['target']['loss']:g}"
    sentences = []
    if ended.empty:
        sentences.append(f"No trial finished, so nothing can be said about {goal}.")
    elif not (reached := ended[ended["target_reached"].eq(True)]).empty:
        trials_ended = counted(len(ended), "finished trial")
        sentences.append(f"{len(reached)} of {trials_ended} reached {goal}.")
        sentences += _least(results)
    else:
        best = ended.sort_values("final_loss", kind="stable").iloc[0]
        who = called(results, best["algorithm"], best["workers"])
        sentences.append(
            f"No trial reached {goal} within the budget; the lowest final loss measured is"
            f" {best['final_loss']:.4f}, {who}, seed {best['seed']}."
        )
    alone = [len(rows) == 1 for _, _, rows in configurations(ended)]
    if any(alone):
        which = "Each configuration" if all(alone) else "Some of these configurations"
        sentences.append(
            f"{which} finished with a single seed only, so a difference may be chance."
        )
    if lost := len(trials) - len(ended):
        sentences.append(
            f"{lost} of {counted(len(trials), 'planned trial')} did not finish; the table of all"
            " trials says why."
        )
    return sentences


def _least(results: Results) -> list[str]:
    """The least time, measured and modelled, steps and bytes until the target, in one sentence."""
    always = always_reached(results)
    sole = [group for group in always if not any_oversubscribed(group[2])]
    sending = [group for group in always if group[1] > 1]
    cores = "" if len(sole) == len(always) else " with a core for every rank"
    quantities: list[tuple[list[tuple[str, int, pd.DataFrame]], str, str, Format]] = [
        (sole, "time_to_target_s", f"least training time{cores}", "{:,.1f} s".format),
        (
            always,
            "modelled_time_to_target_s",
            f"least modelled time over {results.link}",
            "{:,.1f} s".format,
        ),
        (always, "steps_to_target", "fewest steps", "{:,.0f}".format),
        (sending, "bytes_to_target", "fewest bytes sent per worker", si_bytes),
    ]
    parts = []
    for compared, column, what, shown in quantities:
        if len(compared) > 1:
            least = shown(min(rows[column].mean() for _, _, rows in compared))
            tied = [(a, n) for a, n, rows in compared if shown(rows[column].mean()) == least]
            who = [called(results, algorithm, workers) for algorithm, workers in tied]
            if len(who) > TIES:
                who = [*who[: TIES - 1], f"{len(who) - TIES + 1} others"]
            parts.append(f"{what} {least} ({listed(who)})")
    return [f"Measured until then: {'; '.join(parts)}."] if parts else []


def summary(results: Results) -> dict[str, Any]:
    """A row for each algorithm and number of workers, the mean over its seeds that finished."""
    facts = results.benchmark
    rows = []
    for label, workers, trials in configurations(results.trials):
        ended = trials[trials["status"] == "FINISHED"]
        mark = "†" if any_oversubscribed(ended) else ""
        reached = int(ended["target_reached"].eq(True).sum())
        rows.append(
            [
                names(results)[label],
                f"{workers}{mark}",
                f"{len(ended)} of {len(trials)}",
                f"{reached} of {len(ended)}" if len(ended) else NONE,
                mean_and_range(ended["steps_to_target"], "{:,.0f}".format),
                mean_and_range(ended["time_to_target_s"], "{:,.1f}".format),
                mean_and_range(ended["modelled_time_to_target_s"], "{:,.1f}".format),
                mean_and_range(ended["bytes_to_target"], si_bytes),
                mean_and_range(ended["final_loss"], "{:.4f}".format),
                mean_and_range(ended["final_metric"], "{:.4f}".format),
            ]
        )
    return {
        "header": [
            "algorithm",
            "workers",
            "seeds finished",
            "target reached",
            "steps to target",
            "seconds to target",
            f"modelled over {results.link}",
            "bytes sent per worker to target",
            f"final {facts['loss_name']}",
            f"final {facts['metric_name']}",
        ],
        "rows": rows,
    }


def mean_and_range(values: "pd.Series[float]", shown: Format) -> str:
    """The mean, and in a second line the least and the greatest where they differ."""
    values = values.dropna().astype(float)
    if values.empty:
        return NONE
    least, greatest = shown(values.min()), shown(values.max())
    if least == greatest:
        return least
    number, _, unit = least.partition(" ")
    low = number if greatest.endswith(f" {unit}") else least
    return f"{shown(values.mean())}\n{low}–{greatest}"


def notes(results: Results) -> list[str]:
    """What the reader of the summary must know."""
    ended = finished(results)
    told = [
        "The target counts as reached at the first evaluation at or below it. Seconds are training"
        " time, the greatest over ranks, with evaluation off the clock."
    ]
    if several_seeds(results):
        told.append("Means over seeds; below, the least and the greatest.")
    if any_oversubscribed(ended):
        told.append(
            "† More ranks than cores: the ranks took turns, so seconds and examples/s of these"
            " trials say nothing about speedup."
        )
    entries = results.benchmark["benchmark"]["algorithms"]
    if own := [name for label, name in names(results).items() if entries[label].get("budget")]:
        told.append(
            f"With a budget of {'its' if len(own) == 1 else 'their'} own: {listed(own)}. Final losses"
            " are not after equally many examples."
        )
    return told
