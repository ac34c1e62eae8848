"""The command line, `paceline COMMAND`; `--help` lists the commands."""

import argparse
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from paceline.benchmarks.cli import commands
from paceline.benchmarks.trials.addresses import masked
from paceline.home import default_store, default_studies
from paceline.reports.measures.link import DEFAULT, PRESETS

# MLflow's own chatter is not the person's.
logging.getLogger("alembic").setLevel(logging.WARNING)
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

METERS = {
    "communication": "how the bytes of each algorithm grow with the model and the workers",
    "exchanges": "exchanges between ranks, beside the model of a link",
    "ingest": "how fast Criteo rows are read, beside pandas and polars",
    "overhead": "what the meters add to a step, and what a trial costs beside its training",
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
    # Options before the command are moved behind it, where every command takes this one.
    anywhere = argparse.ArgumentParser(add_help=False)
    anywhere.add_argument(
        "--store", metavar="URI", default=argparse.SUPPRESS, help="MLflow's store"
    )

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
        parents=[anywhere],
        allow_abbrev=False,
        add_help=False,
        help="run what is missing of a benchmark, then write its report",
        epilog="Any field of the YAML can be overridden, e.g. --scale.workers=[1,2]"
        " --workload.budget.examples=100000 --algorithms.sync_sgd.workers=[2].",
    )
    run.set_defaults(command=commands.run)

    sweep = verbs.add_parser(
        "sweep",
        allow_abbrev=False,
        add_help=False,
        parents=[anywhere, studies],
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
        verb.add_argument(
            "-h",
            "--help",
            action=_Help,
            help="show this and leave; behind the name of a benchmark, its fields as well",
        )
        verb.add_argument(
            "--only", metavar="LABEL,...", help="of the benchmark's algorithms, these alone"
        )
        verb.add_argument(
            "--workers", metavar="N,...", help="the numbers of workers, instead of `scale.workers`"
        )
        verb.add_argument("--data", metavar="PATH", help="real data: a file or folder")
        verb.add_argument(
            "--on-bad-rows", choices=["raise", "skip"], help="what a malformed row does"
        )
        verb.add_argument("--report", metavar="PDF", help="where the report goes")

    rerun = verbs.add_parser(
        "rerun",
        parents=[anywhere],
        help="repeat a recorded trial and say what came out equal and what did not",
    )
    rerun.add_argument(
        "run_id",
        help="of a finished trial: its id, or as much of it as no other has, as the column `run` of"
        " `results` and of the report shows it",
    )
    rerun.set_defaults(command=commands.rerun)

    results = verbs.add_parser("results", parents=[anywhere], help="one row a trial of a benchmark")
    results.add_argument("name")
    results.add_argument("--format", choices=["table", "csv", "json"], default="table")
    results.set_defaults(command=commands.results)

    report = verbs.add_parser(
        "report", parents=[anywhere], help="write the PDF of a benchmark from what MLflow holds"
    )
    report.add_argument("name")
    report.add_argument("--report", metavar="PDF", help="where it goes; reports/output/NAME.pdf")
    report.set_defaults(command=commands.report)

    for verb in (run, sweep, results, report):
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

    ui = verbs.add_parser("ui", parents=[anywhere], help="open the MLflow page on this machine")
    ui.add_argument("--port", type=int, default=5000)
    ui.set_defaults(command=commands.ui)

    dashboard = verbs.add_parser(
        "dashboard", parents=[anywhere, studies], help="open Optuna's page on this machine"
    )
    dashboard.add_argument("--port", type=int, default=8080)
    dashboard.set_defaults(command=commands.dashboard)

    doctor = verbs.add_parser(
        "doctor", parents=[anywhere], help="check that trials can run on this machine"
    )
    doctor.set_defaults(command=commands.doctor)
    return root


class _Help(argparse.Action):
    """Shows the help of a command and, where a benchmark is named, its fields."""

    def __init__(self, **more: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, **more)

    def __call__(
        self, parser: argparse.ArgumentParser, options: argparse.Namespace, *_: object
    ) -> None:
        parser.print_help()
        if options.name:
            print()
            commands.show_fields(options.name)
        parser.exit()


def _command_first(arguments: list[str], verbs: Iterable[str]) -> list[str]:
    """The arguments of a command line with what stands before the command moved behind it."""
    place = next((i for i, argument in enumerate(arguments) if argument in verbs), 0)
    return [*arguments[place : place + 1], *arguments[:place], *arguments[place + 1 :]]


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 (something failed), 2 (a mistake), 130."""
    try:
        root = parser()
        verbs = [action for action in root._actions if action.dest == "verb"]
        given = sys.argv[1:] if arguments is None else arguments
        ordered = _command_first(given, verbs[0].choices or ())
        options, overrides = root.parse_known_args(ordered)
    except Exception as error:
        return _told(error)
    if overrides and options.verb not in ("run", "sweep", "measure"):
        root.error(f"unknown option {overrides[0]}")
    options.overrides = overrides
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack a character that a table has
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return int(options.command(options))
    except BrokenPipeError:  # whoever read our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on where this one stopped")
        return 130
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> int:
    """Tells of an error, in one line where it is a mistake; returns the exit status."""
    if _is_mistake(error):
        _say(masked(f"error: {error}"))
        return 2
    print(masked("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    return 1


def _say(message: str) -> None:
    Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


def _is_mistake(error: Exception) -> bool:
    """Whether an error is told in one line: a person's mistake or the machine's, not ours."""
    # A class that nobody has imported nobody has raised, and importing it would take seconds.
    known = ((sys.modules.get(module), name) for module, name in MISTAKES.items())
    return isinstance(error, (OSError, *(getattr(m, name) for m, name in known if m)))
