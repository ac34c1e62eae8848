"""The command line, `paceline COMMAND`; `--help` lists the commands."""

import argparse
import logging
import os
import sys

from rich.console import Console

from paceline.benchmarks.cli import commands
from paceline.home import default_store, default_studies
from paceline.reports.measures.link import DEFAULT, PRESETS

# MLflow's own chatter is not the person's.
logging.getLogger("alembic").setLevel(logging.WARNING)
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

METERS = {
    "communication": "how the bytes of each algorithm grow with the model and the workers",
    "exchanges": "exchanges between ranks, beside the model of a link",
    "ingest": "how fast Criteo rows are read, beside pandas and polars",
    "overhead": "what the meters add to a step, and what a trial costs beside its training",
    "coverage": "whether intervals cover and tests raise no false alarms, by simulation",
}

# What is told in one line, beside the errors of the operating system, by module.
MISTAKES = {
    "paceline.benchmarks.spec.plugin": "ConfigError",
    "paceline.benchmarks.trials.rerun": "CannotRerun",
    "paceline.benchmarks.trials.store": "StoreError",
    "paceline.datasets.reading.cache": "DataError",
    "paceline.lightning_modules.backend.launch": "RankFailed",
    "paceline.reports.measures.results": "NoResults",
}


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="paceline",
        allow_abbrev=False,
        description="Which distributed training algorithm reaches your target soonest, and at what cost?",
    )
    root.add_argument(
        "--store",
        metavar="URI",
        default=default_store(),
        help="MLflow's store; default: MLFLOW_TRACKING_URI, else mlflow.db in PACELINE_HOME or in the"
        " current folder",
    )
    verbs = root.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    studies = argparse.ArgumentParser(add_help=False)
    studies.add_argument(
        "--studies",
        metavar="FILE|URI",
        default=default_studies(),
        help="where Optuna keeps the studies: a file, or the address of a PostgreSQL database for sweeps"
        " from several machines; default: PACELINE_STUDIES, else studies.journal in PACELINE_HOME or in"
        " the current folder",
    )

    run = verbs.add_parser(
        "run",
        allow_abbrev=False,
        help="run what is missing of a benchmark, then write its report",
        epilog="Any field of the YAML can be overridden, e.g. --scale.workers=[1,2]"
        " --workload.budget.examples=100000 --algorithms.sync_sgd.workers=[2].",
    )
    run.set_defaults(command=commands.run)

    sweep = verbs.add_parser(
        "sweep",
        allow_abbrev=False,
        parents=[studies],
        help="tune every algorithm at every scale alike, then retrain on fresh seeds and report",
        epilog="The section `sweep` of the YAML says how, and can be overridden like any other, e.g."
        " --sweep.trials=30 --sweep.algorithms=[sync_sgd,downpour] --sweep.workers=[1,2].",
    )
    sweep.add_argument(
        "--heartbeat",
        type=int,
        default=30,
        metavar="SECONDS",
        help="between two signs of life of a trial in a database; after twice as many without one, it"
        " is given out again",
    )
    sweep.add_argument(
        "--share-machine",
        action="store_true",
        help="let other runs use this machine meanwhile; measured seconds are then worth nothing",
    )
    sweep.set_defaults(command=commands.sweep)

    for verb in (run, sweep):
        what = verb.add_mutually_exclusive_group(required=True)
        what.add_argument("name", nargs="?", help="a benchmark of `list`, or a YAML file")
        what.add_argument(
            "--workload",
            metavar="FILE.py:CLASS",
            help="a model of your own, with its data in the same file, under every algorithm",
        )
        verb.add_argument("--data", metavar="PATH", help="real data: a file or folder")
        verb.add_argument(
            "--on-bad-rows", choices=["raise", "skip"], help="what a malformed row does"
        )
        verb.add_argument("--report", metavar="PDF", help="where the report goes")

    rerun = verbs.add_parser(
        "rerun", help="repeat a recorded trial and say what came out equal and what did not"
    )
    rerun.add_argument("run_id", help="of a finished trial: the last column of `results`")
    rerun.set_defaults(command=commands.rerun)

    results = verbs.add_parser("results", help="one row a trial of a benchmark")
    results.add_argument("name")
    results.add_argument("--format", choices=["table", "csv", "json"], default="table")
    results.set_defaults(command=commands.results)

    compare = verbs.add_parser(
        "compare", help="two runs: what differs, and whether anything got faster or slower"
    )
    compare.add_argument("before", help="a benchmark, of which the newest run, or the id of a run")
    compare.add_argument("after", help="likewise; ratios are of this one to the first")
    compare.set_defaults(command=commands.compare)

    report = verbs.add_parser("report", help="write the PDF of a benchmark from what MLflow holds")
    report.add_argument("name")
    report.add_argument("--report", metavar="PDF", help="where it goes; reports/output/NAME.pdf")
    report.set_defaults(command=commands.report)

    for verb in (run, sweep, results, compare, report):
        verb.add_argument(
            "--link", choices=PRESETS, default=DEFAULT, help="over which times are modelled"
        )

    download = verbs.add_parser("download", help="fetch a public data set, checked")
    download.add_argument("name", help="a data set of `list`")
    download.add_argument("--to", metavar="FOLDER", required=True, help="where its files go")
    download.set_defaults(command=commands.download)

    measure = verbs.add_parser(
        "measure", add_help=False, help="measure this machine and what measuring costs on it"
    )
    measure.add_argument(
        "meter", choices=METERS, help="; ".join(": ".join(m) for m in METERS.items())
    )
    measure.set_defaults(command=commands.measure)

    listing = verbs.add_parser(
        "list", help="the benchmarks, algorithms and public data sets there are"
    )
    listing.set_defaults(command=commands.list_all)

    ui = verbs.add_parser("ui", help="open the MLflow page on this machine")
    ui.add_argument("--port", type=int, default=5000)
    ui.set_defaults(command=commands.ui)

    dashboard = verbs.add_parser(
        "dashboard", parents=[studies], help="open Optuna's page on this machine"
    )
    dashboard.add_argument("--port", type=int, default=8080)
    dashboard.set_defaults(command=commands.dashboard)

    doctor = verbs.add_parser("doctor", help="check that trials can run on this machine")
    doctor.set_defaults(command=commands.doctor)
    return root


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 (something failed), 2 (a mistake), 130."""
    root = parser()
    options, overrides = root.parse_known_args(arguments)
    if overrides and options.verb not in ("run", "sweep", "measure"):
        root.error(f"unknown option {overrides[0]}")
    options.overrides = overrides
    try:
        return int(options.command(options))
    except BrokenPipeError:  # whoever read our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        message, status = "interrupted; the same command goes on where this one stopped", 130
    except Exception as error:
        if not _is_mistake(error):
            raise
        message, status = f"error: {error}", 2
    Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)
    return status


def _is_mistake(error: Exception) -> bool:
    """Whether an error is told in one line: a person's mistake or the machine's, not ours."""
    # A class that nobody has imported nobody has raised, and importing it would take seconds.
    known = ((sys.modules.get(module), name) for module, name in MISTAKES.items())
    return isinstance(error, (OSError, *(getattr(m, name) for m, name in known if m)))
