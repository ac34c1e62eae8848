"""What each command of the command line does."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient
from rich.console import Console
from rich.table import Table

import reports.pdf
from benchmarks import doctor as checks
from benchmarks.config import load_benchmark, shipped
from benchmarks.display import TerminalDisplay, table
from benchmarks.environment import ROOT
from benchmarks.runner import run as run_benchmark
from benchmarks.tracking import attach, default_uri, open_store
from lightning_modules import find_algorithms
from reports.results import COLUMNS, Results, load

# Where the output goes to a file or a pipe, a table still has room for its columns.
console = Console(width=None if sys.stdout.isatty() else 150)
OUTPUT = ROOT / "reports" / "output"


def run(options: argparse.Namespace) -> int:
    overrides = list(options.overrides)
    if options.data:
        overrides.append(f"--workload.data.path={options.data}")
    if options.on_bad_rows:
        overrides.append(f"--workload.data.on_bad_rows={options.on_bad_rows}")
    benchmark = load_benchmark(options.name, overrides)
    client = open_store(options.store or default_uri())
    with TerminalDisplay(console) as display:
        outcome = run_benchmark(benchmark, client, display)
    loaded = load(client, benchmark.name)
    console.print(table(loaded))
    path = _write_report(client, loaded, options.report)
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
    if outcome.failed:
        console.print(f"{outcome.failed} trials failed; the same command tries them again")
    return 1 if outcome.failed else 0


def results(options: argparse.Namespace) -> int:
    loaded = load(open_store(options.store or default_uri()), _name(options.name))
    if options.format == "table":
        console.print(table(loaded))
        return 0
    parameters = [column for column in loaded.trials if column.startswith("param.")]
    rows = loaded.trials[[*COLUMNS, *parameters]]
    if options.format == "csv":
        print(rows.to_csv(index=False), end="")
    else:
        print(rows.to_json(orient="records", indent=2))
    return 0


def report(options: argparse.Namespace) -> int:
    client = open_store(options.store or default_uri())
    print(_write_report(client, load(client, _name(options.name)), options.report))
    return 0


def _write_report(client: MlflowClient, results: Results, path: str | None) -> Path:
    file = Path(path) if path else OUTPUT / f"{results.benchmark['name']}.pdf"
    attach(client, results.run_id, reports.pdf.write(results, file))
    return file


def list_all(_: argparse.Namespace) -> int:
    for title, entries in {
        "benchmark": {name: _first_comment(path) for name, path in shipped().items()},
        "algorithm": {name: cls.title for name, cls in find_algorithms().items()},
    }.items():
        grid = Table(title, "what it is", box=None)
        for name, text in entries.items():
            grid.add_row(name, text)
        console.print(grid)
        console.print()
    return 0


def ui(options: argparse.Namespace) -> int:
    uri = options.store or default_uri()
    open_store(uri)
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    server += ["--host", "127.0.0.1", "--port", str(options.port), "--workers", "1"]
    # Jobs are for evaluating language models; without them the server starts in half the time.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    console.print(f"MLflow: http://127.0.0.1:{options.port}  (Ctrl-C ends it)", highlight=False)
    return subprocess.run(server, env=environment, check=False).returncode


def doctor(_: argparse.Namespace) -> int:
    failed = 0
    for name, found, remedy in checks.run_checks():
        failed += bool(remedy)
        console.print(f"{'PROBLEM' if remedy else 'ok':8}{name}: {found}", soft_wrap=True)
        if remedy:
            console.print(f"{'':8}-> {remedy}", soft_wrap=True)
    return 1 if failed else 0


def _name(name: str) -> str:
    """A benchmark is named in MLflow as its file says, so a path serves as well as a name."""
    path = Path(name)
    return load_benchmark(name, []).name if path.suffix else name


def _first_comment(path: Path) -> str:
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


