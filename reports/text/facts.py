"""The facts of a report: the configuration, the data, the hardware and the versions."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from paceline.reports.measures.groups import counted, listed, names, target
from paceline.reports.measures.results import Results


def facts(results: Results) -> list[list[str]]:
    """Pairs of a name and a value for the block under the title."""
    config, environment = results.benchmark["benchmark"], results.benchmark["environment"]
    workload, scale = config["workload"], config["scale"]
    stated = {
        "Workload": f"{workload['name']}: {_plugin(workload['task'])}",
        "Data": _data(results.benchmark["data"], results.benchmark["loss_name"]),
        "Target": _target(results),
        "Budget": _budget(workload["budget"]),
        "Algorithms": "\n".join(
            f"{name}{_tuned_or_set(results, label)} on {_workers_of(results, label)}"
            for label, name in names(results).items()
        ),
        "Scale": f"batch of {counted(scale['batch_size'], 'example')} "
        + ("per worker" if scale["scaling"] == "weak" else "over all workers")
        + f" ({scale['scaling']} scaling), {lr_rule(scale)}, ZeRO stage {scale['zero_stage']},"
        f"{_numerics(scale)} {counted(scale['threads'], 'thread')} per worker",
        "Partition": _partition(config.get("partition")),
        "Fault": _fault(config.get("fault")),
        "Seeds": listed(config["seeds"]),
        "Hardware": _hardware(environment["hardware"]),
        "Other nodes": _other_nodes(environment),
        "Run": _run(results.records),
        "Versions": ", ".join(f"{k} {v}" for k, v in environment["versions"].items()),
        "Code": _revision(environment["revision"]),
    }
    return [[name, value] for name, value in stated.items() if value]


def lr_rule(scale: dict[str, Any]) -> str:
    """How the learning rate depends on the examples that one update averages."""
    match scale.get("lr_rule", "constant"):  # older configurations have no rule
        case "linear":
            return "learning rate proportional to the examples of an update"
        case "sqrt":
            return "learning rate proportional to the square root of the examples of an update"
        case _:
            return "one learning rate for updates of any size"


def _numerics(scale: dict[str, Any]) -> str:
    """The settings of precision, accumulation and clipping that are not the usual ones."""
    # Older configurations have none of them.
    precision, parts = scale.get("precision", 32), scale.get("accumulate", 1)
    clip_norm = scale.get("clip_norm")
    stated = {
        f" precision {precision},": precision != 32,
        f" gradients accumulated over {parts} parts of a batch,": parts > 1,
        f" gradients clipped to a norm of {clip_norm},": clip_norm is not None,
    }
    return "".join(text for text, unusual in stated.items() if unusual)


def _target(results: Results) -> str:
    goal = target(results)
    return (
        "none"
        if goal is None
        else f"validation {results.benchmark['loss_name']} of at most {goal:g}"
    )


def _plugin(plugin: dict[str, Any]) -> str:
    """A class of the configuration without its module, and the arguments of its constructor."""
    name: str = plugin["name"].partition(":")[2]
    return name + _settings(plugin["arguments"])


def _settings(values: dict[str, Any]) -> str:
    shown = ", ".join(f"{k} = {v}" for k, v in values.items() if v is not None)
    return f" ({shown})" if shown else ""


def _tuned_or_set(results: Results, label: str) -> str:
    if "sweep" in results.benchmark:
        return ", tuned,"
    return _settings(_hyper_parameters(results.benchmark["benchmark"]["algorithms"][label]))


def _hyper_parameters(entry: dict[str, Any]) -> dict[str, Any]:
    own = {k: v for k, v in entry.items() if k not in ("algorithm", "workers")}
    if "partition" in own:
        own["partition"] = _partition(own["partition"])
    if own.get("class"):
        own["class"] = Path(own["class"]["name"]).name  # a user's own, as file and class
    if own.get("budget"):
        own["budget"] = _budget(own["budget"])
    return own


def _budget(budget: dict[str, Any]) -> str:
    epochs = f"{budget['epochs']:g} epoch{'' if budget['epochs'] == 1 else 's'}"
    return (
        f"{budget['examples']:,} examples or {epochs}, whichever comes first;"
        f" {counted(budget['evaluations'], 'evaluation')}"
    )


def _partition(partition: dict[str, Any] | None) -> str | None:
    """The kind of a partition and the parameter that belongs to this kind."""
    partition = partition or {}
    match partition.get("kind"):
        case "labels" as kind:
            return f"{kind}, {counted(partition['shards'], 'shard')} per replica"
        case "dirichlet" as kind:
            return f"{kind}, alpha {partition['alpha']:g}"
        case kind:
            return kind


def _fault(fault: dict[str, Any] | None) -> str | None:
    """The injected fault. None if there was none."""
    fault = fault or {}
    match fault.get("kind", "none"):
        case "none":
            return None
        case "kill":
            what = "is killed"
        case "raise":
            what = "raises an error"
        case "slow":
            what = f"takes {fault['factor']:g} times as long for each step"
        case kind:
            what = f"has a fault of kind {kind}"
    return f"on purpose, rank {fault['rank']} {what} from step {fault['step']} on"


def _workers_of(results: Results, label: str) -> str:
    trials = results.trials
    *fewer, most = sorted(trials.loc[trials["algorithm"] == label, "workers"].unique())
    return listed([*fewer, counted(most, "worker")])


def _data(data: dict[str, Any], loss_name: str) -> str:
    parts = [f"{data['name']} (synthetic)" if data["synthetic"] else data["name"]]
    tested = f", {data['test_rows']:,} to test" if "test_rows" in data else ""
    parts.append(
        f"{data['train_rows']:,} rows to train, {data['validation_rows']:,} to validate{tested}"
    )
    if "image_size" in data:
        size, colours = data["image_size"], counted(data["channels"], "channel")
        parts.append(f"{size} x {size} pixels, {colours}, {data['classes']} classes")
    if "vocabulary_size" in data:
        parts.append(
            f"a row is a sequence of {counted(data['sequence_length'], 'token')} out of a"
            f" vocabulary of {data['vocabulary_size']:,}"
        )
    if "click_rate" in data:
        parts.append(f"click rate {100 * data['click_rate']:.2f} %")
    if "constant_log_loss" in data:
        parts.append(f"{loss_name} of a constant prediction {data['constant_log_loss']:.4f}")
    if "bayes_log_loss" in data:
        parts.append(f"the lowest that any model can reach {data['bayes_log_loss']:.4f}")
    if data.get("skipped_rows"):
        parts.append(
            f"{counted(data['skipped_rows'], 'malformed row')} skipped:"
            f" {data.get('first_skipped', '')}"
        )
    return "; ".join(parts)


def _hardware(hardware: dict[str, Any]) -> str:
    gpus = listed(hardware["gpus"]) if hardware["gpus"] else "no GPU"
    return (
        f"{hardware['cpu']}, {counted(hardware['cores'], 'core')}, {hardware['memory_gib']} GiB of"
        f" memory, {gpus}, {hardware['system']}"
    )


def _other_nodes(environment: dict[str, Any]) -> str | None:
    """The nodes besides the first one, with what differs. None if there are none."""
    here, others = environment["hardware"], environment.get("others", {})
    parts = [f"{name} differs: {_hardware(own)}" for name, own in others.items() if own != here]
    if alike := [name for name, own in others.items() if own == here]:
        parts.insert(0, f"{listed(alike)}, with the same hardware")
    return "; ".join(parts) or None


def _run(records: dict[str, dict[str, Any]]) -> str | None:
    """When the trials ran and what else ran beside them. None for records of earlier versions."""
    found = [record["conditions"] for record in records.values() if "conditions" in record]
    if not found:
        return None
    began = [datetime.fromisoformat(own["began"]) for own in found]
    ended = max(t + timedelta(seconds=own["seconds"]) for t, own in zip(began, found, strict=True))
    minutes = sum(own["seconds"] for own in found) / 60
    others = max(own["others_cores"] for own in found)
    clocks = {round(own["clock_mhz"]) for own in found if own["clock_mhz"]}
    clock = f", cores at {min(clocks)} to {max(clocks)} MHz" if len(clocks) > 1 else ""
    return (
        f"{min(began):%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M} UTC, {minutes:.1f} minutes of trials;"
        f" other programs used at most {others:.2f} cores during a trial{clock}"
    )


def _revision(revision: dict[str, Any]) -> str:
    if "commit" not in revision:
        return f"release {revision['release']}" if revision else "not under version control"
    state = "with uncommitted changes" if revision["dirty"] else "without uncommitted changes"
    return f"commit {revision['commit'][:12]}, {state}"
