"""The report of a benchmark as a PDF: a pure function of what MLflow holds of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import typst

from reports.figures import (
    FIGURES,
    NothingToDraw,
    any_oversubscribed,
    configurations,
    counted,
    finished,
    names,
    reference,
    si_bytes,
    svg,
)
from reports.results import Results

TEMPLATE = Path(__file__).with_name("report.typ")
REASON_LIMIT = 600
NONE = "–"
Format = Callable[[Any], str]


def write(results: Results, path: Path) -> list[Path]:
    """Writes the report to `path`, and its figures as SVG into a folder of the same name beside it.

    The same results give the same bytes. A figure that an earlier call left and these
    results do not give is removed.

    Returns:
        The PDF, then the figures.
    """
    figures, reasons = draw(results)
    pdf = typst.compile(
        TEMPLATE,
        format="pdf",
        sys_inputs=inputs(results, figures, reasons),
        ignore_system_fonts=True,
    )
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pdf)
    for name in reasons:
        (folder / f"{name}.svg").unlink(missing_ok=True)
    for name, content in figures.items():
        (folder / f"{name}.svg").write_bytes(content)
    return [path, *(folder / f"{name}.svg" for name in figures)]


def draw(results: Results) -> tuple[dict[str, bytes], dict[str, str]]:
    """The figures that can be drawn, as SVG by name, and why each of the others cannot."""
    figures, reasons = {}, {}
    for name, function in FIGURES.items():
        try:
            figures[name] = svg(function, results)
        except NothingToDraw as error:
            reasons[name] = str(error)
    return figures, reasons


def inputs(results: Results, figures: dict[str, bytes], reasons: dict[str, str]) -> dict[str, str]:
    """What the template is given: one JSON text, so that nothing in it is read as markup."""
    captions = _captions(results)
    content = {
        "title": _title(results),
        "facts": _facts(results),
        "answer": _answer(results),
        "summary": _summary(results),
        "notes": _notes(results),
        "figures": [
            {
                "title": captions[name][0],
                "caption": captions[name][1],
                "svg": figures[name].decode() if name in figures else None,
                "lacking": reasons.get(name),
            }
            for name in FIGURES
        ],
        "trials": _trials(results),
        "run_id": results.run_id,
        "name": results.benchmark["name"],
    }
    return {"report": json.dumps(content, allow_nan=False)}


def _title(results: Results) -> str:
    kind = " (synthetic data)" if results.benchmark["data"]["synthetic"] else ""
    return f"Benchmark {results.benchmark['name']}{kind}"


# --- what was run, and on what --------------------------------------------------------------------


def _facts(results: Results) -> list[list[str]]:
    """Pairs of a name and its value for the block under the title."""
    config, environment = results.benchmark["benchmark"], results.benchmark["environment"]
    workload, scale = config["workload"], config["scale"]
    facts = {
        "Workload": f"{workload['name']}: {_plugin(workload['task'])}",
        "Data": _data(results.benchmark["data"]),
        "Target": f"validation {results.benchmark['loss_name']} of at most"
        f" {workload['target']['loss']:g}",
        "Budget": "{examples:,} examples or {epochs:g} epochs, whichever comes first;"
        " {evaluations} evaluations".format(**workload["budget"]),
        "Algorithms": "; ".join(
            f"{name}{_settings(_hyper_parameters(config['algorithms'][label]))}"
            f" on {_workers_of(results, label)}"
            for label, name in names(results).items()
        ),
        "Scale": f"batch of {counted(scale['batch_size'], 'example')} "
        + ("per worker" if scale["scaling"] == "weak" else "over all workers")
        + f" ({scale['scaling']} scaling), ZeRO stage {scale['zero_stage']},"
        f" {counted(scale['threads'], 'thread')} per worker",
        "Seeds": _list(config["seeds"]),
        "Hardware": _hardware(environment["hardware"]),
        "Versions": ", ".join(f"{k} {v}" for k, v in environment["versions"].items()),
        "Code": _revision(environment["revision"]),
    }
    return [[name, value] for name, value in facts.items()]


def _plugin(plugin: dict[str, Any]) -> str:
    """A class of the configuration without its module, and what it was built with."""
    name: str = plugin["name"].partition(":")[2]
    return name + _settings(plugin["arguments"])


def _settings(values: dict[str, Any]) -> str:
    shown = ", ".join(f"{k} = {v}" for k, v in values.items() if v is not None)
    return f" ({shown})" if shown else ""


def _hyper_parameters(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k not in ("algorithm", "workers")}


def _workers_of(results: Results, label: str) -> str:
    trials = results.trials
    *fewer, most = sorted(trials.loc[trials["algorithm"] == label, "workers"].unique())
    return _list([*fewer, counted(most, "worker")])


def _list(values: list[Any]) -> str:
    """`1`, `1 and 2`, `1, 2 and 4`."""
    *head, last = (str(value) for value in values)
    return f"{', '.join(head)} and {last}" if head else last


def _data(data: dict[str, Any]) -> str:
    parts = [f"{data['name']} (synthetic)" if data["synthetic"] else data["name"]]
    parts.append(f"{data['train_rows']:,} rows to train, {data['validation_rows']:,} to validate")
    if "image_size" in data:
        size, colours = data["image_size"], counted(data["channels"], "channel")
        parts.append(f"{size} x {size} pixels, {colours}, {data['classes']} classes")
    if "click_rate" in data:
        parts.append(f"click rate {100 * data['click_rate']:.2f} %")
    if "constant_log_loss" in data:
        parts.append(
            f"log loss of a constant prediction {data['constant_log_loss']:.4f} nats per example"
        )
    if "bayes_log_loss" in data:
        parts.append(
            f"Bayes log loss, the lowest any model can reach, {data['bayes_log_loss']:.4f} nats"
        )
    if data.get("skipped_rows"):
        parts.append(
            f"{counted(data['skipped_rows'], 'malformed row')} skipped:"
            f" {data.get('first_skipped', '')}"
        )
    return "; ".join(parts)


def _hardware(hardware: dict[str, Any]) -> str:
    gpus = _list(hardware["gpus"]) if hardware["gpus"] else "no GPU"
    return (
        f"{hardware['cpu']}, {counted(hardware['cores'], 'core')}, {hardware['memory_gib']} GiB of"
        f" memory, {gpus}, {hardware['system']}"
    )


def _revision(revision: dict[str, Any]) -> str:
    if not revision:
        return "not under version control"
    state = "with uncommitted changes" if revision["dirty"] else "without uncommitted changes"
    return f"commit {revision['commit'][:12]}, {state}"


# --- the answer -----------------------------------------------------------------------------------


def _answer(results: Results) -> list[str]:
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
        sentences.append(
            f"No trial reached {goal} within the budget; the lowest final loss measured is"
            f" {best['final_loss']:.4f}, {_called(results, best)}, seed {best['seed']}."
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
    """The least time, steps and bytes measured until the target, in one sentence.

    Only of configurations that reached it with every seed: a mean over the lucky ones misleads.
    """
    always = [
        rows
        for _, _, rows in configurations(finished(results))
        if rows["target_reached"].eq(True).all()
    ]
    sole = [rows for rows in always if not any_oversubscribed(rows)]
    sending = [rows for rows in always if rows["workers"].iloc[0] > 1]
    cores = "" if len(sole) == len(always) else " with a core for every rank"
    quantities: list[tuple[list[pd.DataFrame], str, str, Format]] = [
        (sole, "time_to_target_s", f"least training time{cores}", "{:,.1f} s".format),
        (always, "steps_to_target", "fewest steps", "{:,.0f}".format),
        (sending, "bytes_to_target", "fewest bytes sent per worker", si_bytes),
    ]
    parts = []
    for compared, column, what, shown in quantities:
        if len(compared) > 1:
            least = min(compared, key=lambda rows: rows[column].mean())
            who = _called(results, least.iloc[0])
            parts.append(f"{what} {shown(least[column].mean())} ({who})")
    return [f"Measured until then: {'; '.join(parts)}."] if parts else []


def _called(results: Results, row: Any) -> str:
    return f"{names(results)[row['algorithm']]} on {counted(row['workers'], 'worker')}"


def _summary(results: Results) -> dict[str, Any]:
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
                _mean(ended["steps_to_target"], "{:,.0f}".format),
                _mean(ended["examples_to_target"], "{:,.0f}".format),
                _mean(ended["time_to_target_s"], "{:,.1f}".format),
                _mean(ended["bytes_to_target"], si_bytes),
                _mean(ended["final_loss"], "{:.4f}".format),
                _mean(ended["final_metric"], "{:.4f}".format),
            ]
        )
    return {
        "header": [
            "algorithm",
            "workers",
            "seeds finished",
            "target reached",
            "steps to target",
            "examples to target",
            "seconds to target",
            "bytes sent per worker to target",
            f"final {facts['loss_name']}",
            f"final {facts['metric_name']}",
        ],
        "rows": rows,
    }


def _mean(values: "pd.Series[float]", shown: Format) -> str:
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


def _notes(results: Results) -> list[str]:
    """What the reader of the summary must know."""
    ended = finished(results)
    notes = [
        "The target counts as reached at the first evaluation at or below it. Seconds are training"
        " time, the greatest over ranks, with evaluation off the clock."
    ]
    if ended["seed"].nunique() > 1:
        notes.append("Means over seeds; below, the least and the greatest.")
    if any_oversubscribed(ended):
        notes.append(
            "† More ranks than cores: the ranks took turns, so seconds and examples/s of these"
            " trials say nothing about speedup."
        )
    return notes


# --- figures and trials ---------------------------------------------------------------------------


def _captions(results: Results) -> dict[str, tuple[str, str]]:
    """The heading and the caption of each figure."""
    synthetic = " Synthetic data." if results.benchmark["data"]["synthetic"] else ""
    several = results.trials["seed"].nunique() > 1
    curves = (
        "Lines are means over seeds, bands reach from the least to the greatest."
        if several
        else "One seed."
    )
    if (results.trials["status"] != "FINISHED").any():
        curves += " A cross ends the thin curve of a trial that did not finish."
    hollow = crowded = ""
    if any_oversubscribed(finished(results)):
        hollow = " Hollow marks: more ranks than cores."
        crowded = f"{hollow[:-1]}, so the wall clock says nothing about speedup."
    return {
        "loss_against_steps": (
            "Validation loss against steps",
            f"Validation loss against steps of all workers together. {curves}{hollow}{synthetic}",
        ),
        "loss_against_seconds": (
            "Validation loss against training time",
            f"Validation loss against training time. {curves}{crowded}{synthetic}",
        ),
        "speedup": (
            "Speedup",
            f"{_speedup_caption(results, several)}{crowded}{synthetic}",
        ),
        "bytes_sent": (
            "Communication",
            "Bytes that a worker sent while it trained, the mean over workers and seeds: measured"
            " (coloured mark) and expected by the algorithm's own arithmetic (grey bar). A single"
            f" worker sends nothing.{hollow}{synthetic}",
        ),
    }


def _speedup_caption(results: Results, several: bool) -> str:
    try:
        base = reference(results)
    except NothingToDraw:
        return ""
    rate = base["examples_per_s"].mean()
    caption = (
        f"Training throughput relative to {_called(results, base.iloc[0])}"
        f" ({rate:,.0f} examples/s)."
    )
    if several:
        caption += " Points are means over seeds, bars reach from the least to the greatest."
    return caption


def _trials(results: Results) -> dict[str, Any]:
    """Every planned trial with how it ended."""
    rows = []
    for _, trial in results.trials.iterrows():
        crowded = "†" if trial["oversubscribed"] is True else ""
        cells = [
            names(results)[trial["algorithm"]],
            f"{trial['workers']}{crowded}",
            str(trial["seed"]),
            trial["status"].lower(),
            _cell(trial["steps_to_target"], "{:,.0f}".format),
            _cell(trial["time_to_target_s"], "{:,.1f}".format),
            _cell(trial["examples_per_s"], "{:,.0f}".format),
            _cell(trial["bytes_sent_per_worker"], si_bytes),
            _cell(trial["final_loss"], "{:.4f}".format),
            _cell(trial["final_metric"], "{:.4f}".format),
            _cell(trial["weights_sha256"], lambda value: value[:8]),
            _cell(trial["run_id"], lambda value: value[:8]),
        ]
        rows.append({"cells": cells, "failure": _failure(trial)})
    return {
        "header": [
            "algorithm",
            "workers",
            "seed",
            "status",
            "steps to target",
            "seconds to target",
            "examples/s",
            "sent per worker",
            "final loss",
            f"final {results.benchmark['metric_name']}",
            "weights",
            "run",
        ],
        "rows": rows,
    }


def _cell(value: Any, shown: Format) -> str:
    return NONE if pd.isna(value) else shown(value)


def _failure(trial: "pd.Series[Any]") -> str | None:
    if trial["status"] == "FINISHED":
        return None
    if trial["status"] == "MISSING":
        return "never started"
    if trial["status"] == "RUNNING":
        return "not ended when this report was drawn"
    if pd.isna(trial["failure"]):
        return "no reason was recorded"
    reason = " ".join(str(trial["failure"]).split())
    if len(reason) > REASON_LIMIT:
        reason = f"{reason[:REASON_LIMIT]}… (the whole of it is with the run in MLflow)"
    return reason
