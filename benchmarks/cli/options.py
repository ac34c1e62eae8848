"""The commands and options of the command line."""

import argparse
from typing import Any

from paceline.benchmarks.cli import commands, pages
from paceline.benchmarks.cli.on_nodes import on_nodes
from paceline.benchmarks.cli.submit import submittable
from paceline.home import default_store, default_studies
from paceline.reports.measures.link import DEFAULT, PRESETS

METERS = {
    "communication": "how the bytes of each algorithm grow with the model and the number of workers",
    "exchanges": "how long exchanges between ranks take, compared with the model of a link",
    "ingest": "how fast Criteo rows are read, compared with pandas and polars",
    "overhead": "how much time measuring adds to a step, and what a trial costs besides training",
    "steps": "how long a step of each algorithm takes, beside plain PyTorch",
    "coverage": "whether intervals cover and tests give no false alarms, by simulation",
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
    # `main` moves options from before the command to behind it, so every command needs this one.
    anywhere = argparse.ArgumentParser(add_help=False)
    anywhere.add_argument(
        "--store", metavar="URI", default=argparse.SUPPRESS, help="the MLflow store"
    )

    # DeepSpeed's launcher adds this option.
    anywhere.add_argument("--local_rank", help=argparse.SUPPRESS)

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
        parents=[anywhere],
        allow_abbrev=False,
        add_help=False,
        help="run the missing trials of a benchmark and write its report",
        epilog="You can override any field of the YAML, for example --scale.workers=[1,2]"
        " --workload.budget.examples=100000 --algorithms.sync_sgd.workers=[2].",
    )
    run.set_defaults(command=submittable(on_nodes(commands.run)))

    sweep = verbs.add_parser(
        "sweep",
        allow_abbrev=False,
        add_help=False,
        parents=[anywhere, studies],
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
    sweep.add_argument(
        "--nodes-per-trial",
        type=int,
        metavar="N",
        help="divide the nodes into groups of N, each of which runs trials of its own at the same time."
        " By default, all nodes are one group",
    )
    sweep.set_defaults(command=submittable(on_nodes(commands.sweep)))

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
        verb.add_argument(
            "-h",
            "--help",
            action=_Help,
            help="show this message. After the name of a benchmark, also show its fields",
        )
        verb.add_argument(
            "--only", metavar="LABEL,...", help="run only these algorithms of the benchmark"
        )
        verb.add_argument(
            "--keep-going",
            action="store_true",
            help="leave out what fails in the rehearsal and run the others",
        )
        verb.add_argument("--workers", metavar="N,...", help="run only on these numbers of workers")
        verb.add_argument("--data", metavar="PATH", help="a file or a folder with real data")
        verb.add_argument(
            "--on-bad-rows",
            choices=["raise", "skip"],
            help="end the run at a malformed row, or skip the row",
        )
        verb.add_argument(
            "--submit",
            metavar="FILE.yaml",
            help="submit the command to SLURM, as this file says, and follow its jobs",
        )
        verb.add_argument(
            "--dry-run",
            action="store_true",
            help="with --submit, show the script of the jobs and submit nothing",
        )

    rerun = verbs.add_parser(
        "rerun", parents=[anywhere], help="repeat a recorded trial and compare the results"
    )
    rerun.add_argument(
        "run_id",
        metavar="RUN_ID",
        help="a finished trial: its id or a unique prefix of it, as in the column `run` of"
        " `paceline results` and of the report",
    )
    rerun.add_argument(
        "--trust-recorded-code",
        action="store_true",
        help="run the text of your file as the store has recorded it, even if the file has changed."
        " Whoever can write to the store can put any code there",
    )
    rerun.set_defaults(command=on_nodes(commands.rerun))

    results = verbs.add_parser(
        "results", parents=[anywhere], help="show the results of a benchmark, one row per trial"
    )
    results.add_argument("name", help="the name or the YAML file of a benchmark")
    results.add_argument(
        "--format",
        choices=["table", "csv", "json"],
        default="table",
        help="the format of the output. Default: %(default)s",
    )
    results.set_defaults(command=commands.results)

    compare = verbs.add_parser(
        "compare",
        parents=[anywhere],
        help="compare two runs: what differs, and what became faster or slower",
    )
    run_or_name = "a benchmark, which stands for its latest run, or the id of a run"
    compare.add_argument("before", help=run_or_name)
    compare.add_argument("after", help=f"{run_or_name}. Ratios are after over before")
    compare.set_defaults(command=commands.compare)

    report = verbs.add_parser(
        "report",
        parents=[anywhere],
        help="write the report of a benchmark from the results in MLflow",
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

    ui = verbs.add_parser("ui", parents=[anywhere], help="serve the MLflow page on this machine")
    ui.add_argument(
        "--port", type=int, default=5000, help="the port of the page. Default: %(default)s"
    )
    ui.set_defaults(command=pages.ui)

    dashboard = verbs.add_parser(
        "dashboard", parents=[anywhere, studies], help="serve the Optuna page on this machine"
    )
    dashboard.add_argument(
        "--port", type=int, default=8080, help="the port of the page. Default: %(default)s"
    )
    dashboard.set_defaults(command=pages.dashboard)

    doctor = verbs.add_parser(
        "doctor", parents=[anywhere], help="check that trials can run on this machine"
    )
    doctor.set_defaults(command=on_nodes(commands.doctor))
    for verb in (run, sweep, rerun, doctor):
        verb.add_argument(
            "--wait-for-nodes",
            type=float,
            default=60.0,
            metavar="SECONDS",
            help="how long to wait for a node that a launcher has started and that is not there."
            " Default: %(default)s",
        )
    return root


class _Help(argparse.Action):
    """Shows the help of a command. If a benchmark is named, also shows its fields."""

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
