"""The first page of a report: the question, the answer in sentences, and its scope."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from paceline.reports.measures.groups import (
    MEASURED,
    always_reached,
    called,
    configurations,
    counted,
    ended,
    finished,
    has_test_part,
    listed,
    rankable,
    ranked,
    si_bytes,
    target,
    timed,
    timings,
)
from paceline.reports.measures.ranking import (
    MOST_SEEDS,
    Comparison,
    Configuration,
    Difference,
    Ranking,
    compare_losses,
    rank,
    seeds_needed,
)
from paceline.reports.measures.results import Results
from paceline.reports.text.facts import lr_rule

NONE = "–"
NAMED = 3  # a sentence names at most so many tied configurations
Format = Callable[[Any], str]


def question(results: Results) -> str:
    """The question that the benchmark answers."""
    which = f"Which of {counted(len(configurations(results.trials)), 'configuration')}"
    loss, goal = results.benchmark["loss_name"], target(results)
    if goal is None:
        part = "test" if has_test_part(results) else "validation"
        return f"{which} reaches the lowest {part} {loss} within the budget?"
    return (
        f"{which} reaches a validation {loss} of at most {goal:g} soonest, and which sends the fewest"
        " bytes until then?"
    )


def answer(results: Results) -> list[str]:
    """The answer and its qualifications, one sentence in each entry."""
    trials, done = results.trials, finished(results)
    if done.empty:
        return ["No trial finished, so there is no answer."]
    there = ranked(results)
    sentences = _costs(results, there) if there else _losses(results)
    if target(results) is not None:
        sentences.append(_reached(results))
    if lost := len(trials) - len(done):
        sentences.append(
            f"{lost} of {counted(len(trials), 'planned trial')} did not finish; the table of all"
            " trials says why."
        )
    return sentences


def _costs(results: Results, there: list[Configuration]) -> list[str]:
    """Sentences on the least time to the target, measured and modelled, and on the fewest bytes."""
    seconds: Format = "{:,.1f} s".format
    sole = [group for group in there if not timed(group[2], MEASURED).empty]
    sending = [group for group in there if group[2]["bytes_to_target"].gt(0).all()]
    cores = "" if len(sole) == len(there) else " with a core for every rank"
    found = []
    if sole:
        ranking = rank(sole, MEASURED.seconds)
        what = f"Least training time to the target, measured{cores}"
        found.append(_verdict(results, ranking, MEASURED.seconds, what, seconds))
    for times in timings(results)[1:]:
        ranking = rank(there, times.seconds)
        what = f"Least training time to the target, {times.how}"
        found.append(_verdict(results, ranking, times.seconds, what, seconds))
    if sending:
        ranking = rank(sending, "bytes_to_target")
        what = "Fewest bytes that a worker sends to the target"
        found.append(_verdict(results, ranking, "bytes_to_target", what, si_bytes))
    return found


def _losses(results: Results) -> list[str]:
    """Sentences on the lowest loss, if there are no costs to compare."""
    goal = target(results)
    sentences = []
    if goal is None:
        sentences.append("The workload has no target.")
    elif not finished(results)["target_reached"].eq(True).any():
        sentences.append(f"No trial reached the target of {goal:g} within the budget.")
    else:
        sentences.append(
            f"No configuration that can be ranked reached the target of {goal:g} with every seed."
        )
    groups = [group for group in configurations(ended(results)) if _has_losses(group[2])]
    if not groups:
        return [*sentences, "No configuration can be ranked; the remarks and the trials say why."]
    column, what = "best_loss", f"Lowest validation {results.benchmark['loss_name']}"
    if all(rows["test_loss"].notna().all() for _, _, rows in groups):
        column, what = "test_loss", f"Lowest test {results.benchmark['loss_name']}"
    ranking = rank(groups, column, compare_losses)
    return [*sentences, _verdict(results, ranking, column, what, "{:.4f}".format)]


def _has_losses(rows: pd.DataFrame) -> bool:
    """Whether trials can be ranked by their loss: all finished with a loss, and no remark forbids it."""
    whole = rows["status"].eq("FINISHED") & rows["best_loss"].notna()
    return bool(whole.all()) and rankable(rows)


def _verdict(results: Results, ranking: Ranking, column: str, what: str, shown: Format) -> str:
    """The result of a ranking in one sentence."""

    def told(group: Configuration) -> str:
        algorithm, workers, rows = group
        return f"{called(results, algorithm, workers)} ({shown(rows[column].mean())})"

    first, lead = ranking.least[0], ranking.lead
    if ranking.next is None:
        return f"{what}: {told(first)}, the only configuration that can be compared."
    if lead is None or lead.found.repetitions < 2:
        near = ", within one evaluation of each other" if lead and not lead.resolved else ""
        return (
            f"{what}: one seed cannot show a winner. The first is {told(first)}, the second is"
            f" {told(ranking.next)}{near}."
        )
    kind = "difference" if isinstance(lead.found, Difference) else "ratio"
    if ranking.winner:
        return (
            f"{what}: {told(first)}. Its {kind} to the next, {told(ranking.next)}, is {lead.found}."
        )
    tied = [told(group) for group in ranking.least]
    if len(tied) > NAMED:
        tied = [*tied[: NAMED - 1], f"{len(tied) - NAMED + 1} others"]
    remedy = _remedy(first[2], ranking.next[2], column, lead)
    return (
        f"{what}: there is no winner, because {listed(tied)} cannot be told apart. The {kind} of the"
        f" first two is {lead.found}{remedy}."
    )


def _remedy(of: pd.DataFrame, against: pd.DataFrame, column: str, lead: Comparison) -> str:
    """The part of a sentence that says what would tell two configurations apart."""
    if not lead.resolved:
        return ", within one evaluation of each other, so that more evaluations are needed first"
    if isinstance(lead.found, Difference):
        return ""
    seeds = seeds_needed(of, against, column)
    if seeds is None:
        return f", and {MOST_SEEDS} seeds would not tell them apart either"
    return f", and roughly {seeds} seeds would be needed to tell them apart"


def _reached(results: Results) -> str:
    """How many trials reached the target, and how many configurations always did."""
    trials, groups = ended(results), configurations(ended(results))
    reached, always = int(trials["target_reached"].eq(True).sum()), always_reached(results)
    seeds = sorted({len(rows) for _, _, rows in groups})
    each = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else counted(seeds[0], "seed")
    return (
        f"{reached} of {counted(len(trials), 'trial')} reached the target, and {len(always)} of"
        f" {counted(len(groups), 'configuration')} reached it with every seed ({each} each)."
    )


def scope(results: Results) -> str:
    """The scope of the answer: model, data, machine, link and tuning."""
    config, environment = results.benchmark["benchmark"], results.benchmark["environment"]
    data, hardware = results.benchmark["data"], environment["hardware"]
    others = environment.get("others", {})  # a run on one node has none
    on_nodes = f", on each of {len(others) + 1} nodes" if others else ""
    model = config["workload"]["task"]["name"].rpartition(":")[2]
    gpus = f"{listed(hardware['gpus'])}" if hardware["gpus"] else "no GPU"
    kinds = " and ".join(times.how for times in timings(results))
    workers = sorted({int(n) for n in results.trials["workers"]})
    if "sweep" in results.benchmark:
        tuned = counted(results.benchmark["sweep"]["settings"]["trials"], "trial")
        tuning = f"each algorithm tuned with {tuned} a study"
    else:
        tuning = f"settings that this benchmark did not tune ({lr_rule(config['scale'])})"
    synthetic = " (synthetic)" if data["synthetic"] else ""
    return (
        f"This holds for {model} on {data['name']}{synthetic}, {data['train_rows']:,} rows to train, on"
        f" {listed(workers)} {'worker' if workers == [1] else 'workers'} of {hardware['cpu']},"
        f" {counted(hardware['cores'], 'core')}, {gpus}{on_nodes}, with times {kinds}, and {tuning}."
        " It says nothing about other models, data, machines or links."
    )
