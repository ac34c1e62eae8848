"""The command line, `paceline COMMAND`; `--help` lists the commands."""

import argparse
import logging
import os
import sys

from rich.console import Console

from paceline.benchmarks.cli import commands
from paceline.home import default_store, default_studies
from paceline.reports.measures.link import DEFAULT, PRESETS

# Hide the log messages of MLflow.
logging.getLogger("alembic").setLevel(logging.WARNING)
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

METERS = {
    "communication": "how the bytes of each algorithm grow with the model and the number of workers",
    "exchanges": "how long exchanges between ranks take, compared with the model of a link",
    "ingest": "how fast Criteo rows are read, compared with pandas and polars",
    "overhead": "how much time measuring adds to a step, and what a trial costs besides training",
    "coverage": "whether intervals cover and tests give no false alarms, by simulation",
}

# The errors that are shown in one line, by module. Errors of the operating system are too.
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
        description="Compare distributed training algorithms on your own model, data and hardware.",
    )
    root.add_argument(
        "--store",
        metavar="URI",
        default=default_store(),
        help="the MLflow store. Default: MLFLOW_TRACKING_URI if it is set, else mlflow.db in"
        " PACELINE_HOME or in the current folder",
    )
    verbs = root.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    studies = argparse.ArgumentParser(add_help=False)
    studies.add_argument(
        "--studies",
        metavar="FILE|URI",
        default=default_studies(),
        help="where Optuna stores the studies: a file, or the address of a PostgreSQL database for sweeps"
        " from several machines. Default: PACELINE_STUDIES if it is set, else studies.journal in"
        " PACELINE_HOME or in the current folder",
    )

    run = verbs.add_parser(
        "run",
        allow_abbrev=False,
        help="run the missing trials of a benchmark and write its report",
        epilog="You can override any field of the YAML, for example --scale.workers=[1,2]"
        " --workload.budget.examples=100000 --algorithms.sync_sgd.workers=[2].",
    )
    run.set_defaults(command=commands.run)

    sweep = verbs.add_parser(
        "sweep",
        allow_abbrev=False,
        parents=[studies],
        help="tune every algorithm at every scale, retrain on new seeds and write the report",
        epilog="The section `sweep` of the YAML holds the settings. You can override them like any other"
        " field, for example --sweep.trials=30 --sweep.algorithms=[sync_sgd,downpour]"
        " --sweep.workers=[1,2].",
    )
    sweep.add_argument(
        "--heartbeat",
        type=int,
        default=30,
        metavar="SECONDS",
        help="the time between two heartbeats of a trial, if the studies are in a database. After twice"
        " this time without a heartbeat, another process runs the trial again. Default: %(default)s",
    )
    sweep.add_argument(
        "--share-machine",
        action="store_true",
        help="let other runs use this machine at the same time. Measured seconds are then meaningless",
    )
    sweep.set_defaults(command=commands.sweep)

    for verb in (run, sweep):
        what = verb.add_mutually_exclusive_group(required=True)
        what.add_argument(
            "name", nargs="?", help="a benchmark from `paceline list`, or a YAML file"
        )
        what.add_argument(
            "--workload",
            metavar="FILE.py:CLASS",
            help="your own model, with its data in the same file. It is trained under every algorithm",
        )
        verb.add_argument("--data", metavar="PATH", help="a file or a folder with real data")
        verb.add_argument(
            "--on-bad-rows",
            choices=["raise", "skip"],
            help="end the run at a malformed row, or skip the row",
        )

    rerun = verbs.add_parser("rerun", help="repeat a recorded trial and compare the results")
    rerun.add_argument(
        "run_id",
        metavar="RUN_ID",
        help="a finished trial: column run_id of `paceline results NAME --format csv`",
    )
    rerun.set_defaults(command=commands.rerun)

    results = verbs.add_parser("results", help="show the results of a benchmark, one row per trial")
    results.add_argument("name", help="the name or the YAML file of a benchmark")
    results.add_argument(
        "--format",
        choices=["table", "csv", "json"],
        default="table",
        help="the format of the output. Default: %(default)s",
    )
    results.set_defaults(command=commands.results)

    compare = verbs.add_parser(
        "compare", help="compare two runs: what differs, and what became faster or slower"
    )
    run_or_name = "a benchmark, which stands for its latest run, or the id of a run"
    compare.add_argument("before", help=run_or_name)
    compare.add_argument("after", help=f"{run_or_name}. Ratios are after over before")
    compare.set_defaults(command=commands.compare)

    report = verbs.add_parser(
        "report", help="write the report of a benchmark from the results in MLflow"
    )
    report.add_argument("name", help="the name or the YAML file of a benchmark")
    report.set_defaults(command=commands.report)

    for verb in (run, sweep, report):
        verb.add_argument(
            "--report",
            metavar="PDF",
            help="the file of the report. Default: reports/output/NAME.pdf in PACELINE_HOME or in the"
            " current folder",
        )
    for verb in (run, sweep, results, compare, report):
        verb.add_argument(
            "--link",
            choices=PRESETS,
            default=DEFAULT,
            help="the link for which times are modelled. Default: %(default)s",
        )

    download = verbs.add_parser("download", help="download a public data set and check it")
    download.add_argument("name", help="a data set from `paceline list`")
    download.add_argument("--to", metavar="FOLDER", required=True, help="the folder for its files")
    download.set_defaults(command=commands.download)

    measure = verbs.add_parser("measure", help="measure this machine, and the cost of measuring")
    meters = measure.add_subparsers(dest="meter", required=True, metavar="METER")
    for meter, text in METERS.items():
        meters.add_parser(meter, add_help=False, help=text)  # the meter reads its own options
    measure.set_defaults(command=commands.measure)

    listing = verbs.add_parser("list", help="list the benchmarks, algorithms and public data sets")
    listing.set_defaults(command=commands.list_all)

    ui = verbs.add_parser("ui", help="serve the MLflow page on this machine")
    ui.add_argument(
        "--port", type=int, default=5000, help="the port of the page. Default: %(default)s"
    )
    ui.set_defaults(command=commands.ui)

    dashboard = verbs.add_parser(
        "dashboard", parents=[studies], help="serve the Optuna page on this machine"
    )
    dashboard.add_argument(
        "--port", type=int, default=8080, help="the port of the page. Default: %(default)s"
    )
    dashboard.set_defaults(command=commands.dashboard)

    doctor = verbs.add_parser("doctor", help="check that trials can run on this machine")
    doctor.set_defaults(command=commands.doctor)
    return root


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0, 1 (something failed), 2 (a mistake) or 130 (interrupted).
    """
    root = parser()
    options, overrides = root.parse_known_args(arguments)
    if overrides and options.verb not in ("run", "sweep", "measure"):
        root.error(f"unknown option {overrides[0]}")
    options.overrides = overrides
    try:
        return int(options.command(options))
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        message, status = "interrupted; run the same command again to continue", 130
    except Exception as error:
        if not _is_mistake(error):
            raise
        message, status = f"error: {error}", 2
    Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)
    return status


def _is_mistake(error: Exception) -> bool:
    """Whether an error is shown in one line: it comes from the user or the machine, and is no bug."""
    # A class that is not imported cannot have been raised, and importing it takes seconds.
    known = ((sys.modules.get(module), name) for module, name in MISTAKES.items())
    return isinstance(error, (OSError, *(getattr(m, name) for m, name in known if m)))
