"""The commands of the command line.

Each command imports the modules that it needs, because importing torch and Lightning takes seconds and
commands such as `results` do not need them.
"""

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from paceline.benchmarks.trials.display import console
from paceline.home import home, make_ready

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from paceline.benchmarks.spec.benchmark import Benchmark
    from paceline.reports.measures.results import Results


def run(options: argparse.Namespace) -> int:
    benchmark = _benchmark(options)

    from paceline.benchmarks.nodes.cluster import current
    from paceline.benchmarks.trials.display import TerminalDisplay
    from paceline.benchmarks.trials.room import spread
    from paceline.benchmarks.trials.runner import run as run_benchmark
    from paceline.benchmarks.trials.store import open_store
    from paceline.lightning_modules.backend.launch import interruptible

    report = _report_file(options.report, benchmark.name)
    client = open_store(options.store)
    with interruptible(), TerminalDisplay(console) as display:
        outcome = run_benchmark(spread(benchmark, current()), client, display, options.keep_going)
    _conclude(client, benchmark.name, options.link, report, outcome.failed)
    if outcome.left_out:
        console.print(f"trials left out after the rehearsal: {outcome.left_out}")
    return 1 if outcome.failed or outcome.left_out else 0


def sweep(options: argparse.Namespace) -> int:
    benchmark = _benchmark(options)

    from paceline.benchmarks.nodes.cluster import current
    from paceline.benchmarks.sweeps.studies import Studies
    from paceline.benchmarks.sweeps.sweep import sweep as sweep_benchmark
    from paceline.benchmarks.trials.display import TerminalDisplay
    from paceline.benchmarks.trials.room import spread
    from paceline.benchmarks.trials.store import open_store
    from paceline.lightning_modules.backend.launch import interruptible

    report = _report_file(options.report, f"{benchmark.name}-sweep")
    client = open_store(options.store)
    studies = Studies(options.studies, options.heartbeat)
    with interruptible(), TerminalDisplay(console) as display:
        missing = sweep_benchmark(
            spread(benchmark, current()),
            client,
            studies,
            options.link,
            display,
            options.share_machine or current().group > 0,
            options.keep_going,
        )
    if current().group:
        return 0  # the first group shows the results
    _conclude(client, f"{benchmark.name}-sweep", options.link, report, missing.retrains)
    if missing.studies:
        console.print(
            f"studies without a finished trial: {missing.studies}; with a larger --sweep.trials the same"
            " command goes on with them"
        )
    return 1 if missing else 0


def _benchmark(options: argparse.Namespace) -> "Benchmark":
    """Returns the benchmark of the command line, see `named`, and starts the fork server."""
    from paceline.benchmarks.spec.shipped import find_benchmark
    from paceline.lightning_modules.backend.local_ranks import start_fork_server

    if options.name:
        find_benchmark(options.name)  # reports a misspelt name before the slow imports
    make_ready()
    # The server imports its modules while this process imports its own.
    start_fork_server("paceline.benchmarks.trials.rank")
    return named(options)


def named(options: argparse.Namespace) -> "Benchmark":
    """Returns the benchmark of the command line with its overrides."""
    from paceline.benchmarks.spec.arguments import reads_as_itself
    from paceline.benchmarks.spec.reading import load_benchmark, load_workload

    overrides = list(options.overrides)
    if options.data:
        path = options.data if reads_as_itself(options.data) else os.path.join(".", options.data)
        overrides.append(f"--workload.data.path={path}")
    if options.on_bad_rows:
        overrides.append(f"--workload.data.on_bad_rows={options.on_bad_rows}")
    if options.workers:
        overrides.append(f"--scale.workers=[{options.workers}]")
    if options.workload:
        benchmark = load_workload(options.workload, overrides)
    else:
        benchmark = load_benchmark(options.name, overrides)
    if options.only:
        benchmark = benchmark.only(options.only.split(","))
    return benchmark.on(benchmark.scale.workers) if options.workers else benchmark


def show_fields(name: str) -> None:
    """Prints every field of a benchmark's YAML as the option that overrides it."""
    from paceline.benchmarks.spec.reading import fields

    grid = Table("field of the YAML", "here", "what it is", box=None)
    for option, value, what in fields(name):
        grid.add_row(option, "" if value is None else str(value), what)
    console.print(grid)


def _conclude(client: "MlflowClient", name: str, link: str, report: Path, failed: int) -> None:
    """Shows the results of a run or a sweep and writes its report."""
    from paceline.benchmarks.cli.tables import table
    from paceline.reports.measures.results import load

    results = load(client, name, link)
    console.print(table(results))
    _write_report(client, results, report)
    console.print(f"report: {report}", soft_wrap=True)
    if failed:
        console.print(f"failed trials: {failed}; the same command tries them again")


def rerun(options: argparse.Namespace) -> int:
    from paceline.lightning_modules.backend.launch import interruptible
    from paceline.lightning_modules.backend.local_ranks import start_fork_server

    make_ready()
    start_fork_server("paceline.benchmarks.trials.rank")

    from paceline.benchmarks.cli.tables import comparison
    from paceline.benchmarks.trials.display import TerminalDisplay
    from paceline.benchmarks.trials.rerun import rerun as rerun_trial
    from paceline.benchmarks.trials.store import open_store

    client = open_store(options.store, create=False)
    with interruptible(), TerminalDisplay(console) as display:
        outcome = rerun_trial(client, options.run_id, display, options.trust_recorded_code)
    console.print(comparison(outcome))
    return 0 if outcome.bitwise else 1


def results(options: argparse.Namespace) -> int:
    from paceline.benchmarks.cli.tables import table
    from paceline.benchmarks.trials.store import open_store
    from paceline.reports.measures.results import COLUMNS, load

    client = open_store(options.store, create=False)
    found = load(client, _name(options.name), options.link, with_predictions=False)
    parameters = [str(name) for name in found.trials if str(name).startswith("param.")]
    rows = found.trials[[*COLUMNS, "oversubscribed", "failure", *parameters]]
    match options.format:
        case "table":
            console.print(table(found))
        case "csv":
            print(rows.to_csv(index=False), end="")
        case "json":
            print(rows.to_json(orient="records", indent=2))
    return 0


def compare(options: argparse.Namespace) -> int:
    from paceline.benchmarks.cli.tables import changes, differences
    from paceline.benchmarks.trials.store import open_store
    from paceline.reports.measures.compare import find
    from paceline.reports.measures.results import NoResults, parents

    client = open_store(options.store, create=False)
    given = (options.before, options.after)
    before, after = (find(client, _name(name), options.link) for name in given)
    if before.run_id == after.run_id:
        name = after.benchmark["name"]
        runs = ", ".join(run.info.run_id for run in parents(client, name))
        raise NoResults(f"both are run {after.run_id}; {name} has the runs {runs}, newest first")
    console.print(differences(before, after))
    console.print(changes(before, after))
    return 0


def report(options: argparse.Namespace) -> int:
    from paceline.benchmarks.trials.store import open_store
    from paceline.reports.measures.results import load

    name = _name(options.name)
    file = _report_file(options.report, name)
    client = open_store(options.store, create=False)
    _write_report(client, load(client, name, options.link), file)
    print(file)
    return 0


def _report_file(path: str | None, name: str) -> Path:
    """Returns the file of a benchmark's report. Creates its folder and checks that it is writable.

    Raises:
        ConfigError: if `path` is a folder or does not end in `.pdf`.
        OSError: if the folder cannot be created or written to.
    """
    from paceline.benchmarks.spec.plugin import ConfigError

    file = Path(path).expanduser() if path else home() / "reports" / "output" / f"{name}.pdf"
    if file.is_dir():
        raise ConfigError(f"--report={path} is a folder; write --report={file / f'{name}.pdf'}")
    if file.suffix.lower() != ".pdf":
        raise ConfigError(f"--report={path} does not end in .pdf; write --report={path}.pdf")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):
        raise PermissionError(f"cannot write to {file.parent}; set --report or PACELINE_HOME")
    return file


def _write_report(client: "MlflowClient", results: "Results", file: Path) -> None:
    from paceline.benchmarks.trials.store import attach
    from paceline.reports import pdf
    from paceline.reports.figures import catalogue
    from paceline.reports.measures.studies import by_study

    attach(client, results.run_id, pdf.write(results, file))
    for run_id, own in by_study(results).items():
        for name, figure in pdf.draw(own, catalogue.OF_A_SWEEP)[0].items():
            client.log_text(run_id, figure.decode(), f"report/{name}.svg")


def download(options: argparse.Namespace) -> int:
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from paceline.benchmarks.cli.download import download as fetch
    from paceline.benchmarks.cli.download import find_set

    wanted, folder = find_set(options.name), Path(options.to).expanduser()
    console.print(f"{wanted.about}\nterms: {wanted.terms}", soft_wrap=True)
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        bars = {name: progress.add_task(name, visible=False) for name in wanted.files}

        def show(name: str, size: int, total: int | None) -> None:
            progress.update(bars[name], completed=size, total=total, visible=True)

        fetch(wanted, folder, show)
    console.print(
        f"whole and checked in {folder}; next: paceline {wanted.use.format(folder=folder)}",
        soft_wrap=True,
    )
    return 0


def measure(options: argparse.Namespace) -> int:
    # `coverage` measures the statistics of the reports and needs no machine.
    room = "reports.measures" if options.meter == "coverage" else "benchmarks.meters"
    import_module(f"paceline.{room}.{options.meter}").main(options.overrides)
    return 0


def list_all(_: argparse.Namespace) -> int:
    from paceline.benchmarks.cli.download import SETS
    from paceline.benchmarks.spec.shipped import shipped
    from paceline.lightning_modules import titles

    for title, entries in {
        "benchmark": {name: _first_comment(path) for name, path in shipped().items()},
        "algorithm": titles(),
        "data set": {name: public.about for name, public in SETS.items()},
    }.items():
        grid = Table(title, "what it is", box=None)
        for name, text in entries.items():
            grid.add_row(name, text)
        console.print(grid)
        console.print()
    return 0


def doctor(options: argparse.Namespace) -> int:
    from itertools import chain

    from paceline.benchmarks.cli.doctor import run_checks
    from paceline.benchmarks.cli.doctor_nodes import checks_of_nodes
    from paceline.benchmarks.nodes.cluster import current

    failed = 0
    for name, found, remedy in chain(run_checks(options.store), checks_of_nodes(current())):
        failed += bool(remedy)
        console.print(f"{'PROBLEM' if remedy else 'ok':8}{name}: {found}", soft_wrap=True)
        if remedy:
            console.print(f"{'':8}-> {remedy}", soft_wrap=True)
    return 1 if failed else 0


def _name(name: str) -> str:
    """Returns the name of a benchmark in MLflow, given its name or its file."""
    from paceline.benchmarks.spec.shipped import find_benchmark, read_yaml

    path = Path(name)
    return str(read_yaml(find_benchmark(name)).get("name", path.stem)) if path.suffix else name


def _first_comment(path: Path) -> str:
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)
