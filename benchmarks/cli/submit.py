"""Submits a run or a sweep to SLURM and follows its jobs.

submitit writes the script and gives it to `sbatch`. The keys of the file of the cluster are therefore
those of benchopt: an option of `sbatch` as submitit names it, after `slurm_`. Two things are not
submitit's. The step of the script is the command itself and no pickled function, so that the script can
be read and run by hand, and the signals of SLURM reach the command. And jobs are followed by `squeue`,
because submitit asks `sacct`, which a cluster without accounting does not have.
"""

import argparse
import hashlib
import io
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from paceline.benchmarks.cli.commands import named
from paceline.benchmarks.cli.slurm import follow, last_line, squeue
from paceline.benchmarks.spec.plugin import ConfigError, nearest
from paceline.benchmarks.trials.display import console
from paceline.home import home, make_ready

if TYPE_CHECKING:
    from submitit import SlurmExecutor

Command = Callable[[argparse.Namespace], int]

ARRAY, REQUEUES = "array", "requeues"  # the keys that are not those of submitit
# What cannot be chosen: one process a node, whose output is one file.
OURS = ("ntasks_per_node", "num_gpus", "srun_args", "stderr_to_stdout", "teardown", "use_srun")
KINDS = {
    "slurm_setup": (list, "a list of lines of the script"),
    "slurm_additional_parameters": (dict, "a mapping of options of sbatch"),
}
NO_TEXT = {"true": True, "false": None, "null": None, "~": None, "": None}
# SLURM ends a job at its time limit for good. Some seconds before, this puts it back into the queue, and
# then waits until SLURM has ended the step.
AGAIN = (
    "trap '[ ${{SLURM_RESTART_COUNT:-0}} -lt {requeues} ] && scontrol requeue {job};"
    " wait $step; exit $?' USR1"
)
# The id of the last job of an array is that of the array, so it would requeue all of them.
THIS_JOB, THIS_OF_ARRAY = "$SLURM_JOB_ID", "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"


def submittable(command: Command) -> Command:
    """Returns a command that is submitted to SLURM if `--submit` says so."""

    def submit_or_run(options: argparse.Namespace) -> int:
        if options.submit:
            return submit(options)
        if options.dry_run:
            raise ConfigError("--dry-run shows the script that --submit FILE would submit; add it")
        return command(options)

    return submit_or_run


def submit(options: argparse.Namespace) -> int:
    """Submits the command of `options` and follows its jobs until they end.

    A command whose jobs have not ended is not submitted twice. They are followed instead.

    Returns:
        The exit status: 0 if every job has completed, 1 if not, and 130 if the user stops following.

    Raises:
        ConfigError: if the benchmark or the file of the cluster has a mistake, if SLURM or submitit is
            not there, or if SLURM refuses the job.
    """
    settings = read_settings(Path(options.submit), options.verb == "sweep")
    command = _command(options.given)
    # The jobs of the same command over the same state have the same name.
    same = hashlib.sha256(repr((Path.cwd(), home(), options.store, command)).encode()).hexdigest()
    job = _Job(settings, f"{Path(options.name or options.workload).stem}-{same[:8]}", command)
    job_id = "" if options.dry_run else job.there()
    if job_id:
        console.print(f"job {job_id} runs this command already; following it")
    else:
        make_ready()
        named(options)  # a mistake in the command is told now, and not when the job has waited
        if options.dry_run:
            print(job.script())
            return 0
        job_id = job.submit()
        console.print(f"job {job_id} is submitted; its script and logs: {job.folder}")
    try:
        return 0 if follow(job_id, job.log) else 1
    except KeyboardInterrupt:
        console.print(
            f"job {job_id} goes on. To end it: scancel {job_id}. To follow it: the same command again"
        )
        return 130


def _command(given: list[str]) -> list[str]:
    """Returns the command of every node: what the user has given, without the options of this file."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--submit")
    own.add_argument("--dry-run", action="store_true")
    return [sys.executable, "-u", "-m", "paceline.benchmarks", *own.parse_known_args(given)[1]]


@dataclass(frozen=True)
class Settings:
    """The file of a cluster.

    Attributes:
        slurm: the parameters of submitit.
        nodes: the number of nodes of a job.
        signal_delay_s: how long before its time limit a job begins again.
        array: the number of jobs of a sweep. A run is one job.
        requeues: how often a job begins again at its time limit.
    """

    slurm: dict[str, Any]
    nodes: int
    signal_delay_s: int
    array: int
    requeues: int


def read_settings(file: Path, array: bool) -> Settings:
    """Returns the settings in the file of a cluster.

    Args:
        file: a mapping in YAML.
        array: whether the command may be several jobs.

    Raises:
        ConfigError: if the file cannot be read, if a key or a value is wrong, or if SLURM or submitit is
            not there.
    """
    try:
        # As text: YAML would read the time 1:00:00 as the number 3600.
        given = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506, it makes text only
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{file}: the settings of a cluster are a mapping, see docs/slurm.md")
    known = {f"slurm_{name}" for name in _executor()._valid_parameters() if name not in OURS}
    for key, value in given.items():
        if key not in known | {ARRAY, REQUEUES}:
            near = nearest(key, known | {ARRAY, REQUEUES})
            raise ConfigError(f"{file}: unknown key {key!r}{near}")
        kind, what = KINDS.get(key, (str, "one value"))
        if not isinstance(value, kind):
            raise ConfigError(f"{file}: {key} is {what}, not {value}")
    if lines := [line for line in given.get("slurm_setup", ()) if not isinstance(line, str)]:
        raise ConfigError(f"{file}: slurm_setup: put the line {lines[0]} into quotes")

    def count(key: str, default: int, least: int = 1) -> int:
        text = given.get(key, str(default))
        if not (text.isdecimal() and int(text) >= least):
            raise ConfigError(f"{file}: {key}: {text!r} is no whole number of at least {least}")
        return int(text)

    return Settings(
        {key.removeprefix("slurm_"): _plain(given[key]) for key in known & set(given)},
        nodes=count("slurm_nodes", 1),
        signal_delay_s=count("slurm_signal_delay_s", 120),
        array=count(ARRAY, 1) if array else 1,
        requeues=count(REQUEUES, 3, least=0),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return NO_TEXT.get(value, value) if isinstance(value, str) else value


def _executor() -> "type[SlurmExecutor]":
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "no SLURM here: `sbatch` is not found; run --submit where you call sbatch"
        )
    try:
        from submitit import SlurmExecutor
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--submit needs submitit; install it with `pip install paceline[slurm]`"
        ) from error
    return SlurmExecutor


class _Job:
    """The job, or the array of jobs, of a command.

    Attributes:
        name: the name of the job in SLURM.
        folder: where its script and its logs are.
    """

    def __init__(self, settings: Settings, name: str, command: list[str]) -> None:
        slurm = settings.slurm
        self.name = f"{slurm.get('job_name') or 'paceline'}-{name}"
        self.folder = home() / "slurm"
        step = [f"--nodes={settings.nodes}", "--ntasks-per-node=1"]
        if cpus := slurm.get("cpus_per_task"):
            # Since SLURM 22.05, a step is not given those of its job.
            step.append(f"--cpus-per-task={cpus}")
        this = THIS_OF_ARRAY if settings.array > 1 else THIS_JOB
        again = AGAIN.format(requeues=settings.requeues, job=this)
        # By itself, submitit would signal the step, and set five minutes and a key for the accounts.
        options = {"signal": f"B:USR1@{settings.signal_delay_s}", "requeue": True}
        ours = {
            "job_name": self.name,
            "nodes": settings.nodes,
            "ntasks_per_node": 1,
            "srun_args": step,
            "stderr_to_stdout": True,
            "setup": [*slurm.get("setup", ()), again],
            "additional_parameters": options | slurm.get("additional_parameters", {}),
            "signal_delay_s": settings.signal_delay_s,
        }
        self._executor = _executor()(self.folder)
        self._executor.update_parameters(**{"time": None, "wckey": None} | slurm | ours)
        if settings.array > 1:
            self._executor.parameters["map_count"] = settings.array
        # A trap is run while the shell waits, and not while it runs a command.
        self._step = f"{shlex.join(command)} &\nstep=$!\nwait $step"

    def script(self) -> str:
        return self._executor._make_submission_file_text(self._step, "")

    def submit(self) -> str:
        """Submits the job and returns its id.

        Raises:
            ConfigError: if SLURM does not take it.
        """
        from submitit.core.utils import FailedJobError

        self.folder.mkdir(exist_ok=True)
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                return str(self._executor._submit_command(self._step).job_id)
        except FailedJobError as error:
            raise ConfigError(f"SLURM refuses the job: {last_line(str(error))}") from error

    def there(self) -> str:
        """Returns the id of the job of this name that has not ended, or an empty text."""
        asked = squeue(f"--user={os.getuid()}", f"--name={self.name}", "--format=%F")
        return asked.stdout.partition("\n")[0].strip()

    def log(self, job_id: str) -> Path:
        """Returns the log of a job of the array: the output of its script and of its first node."""
        return self.folder / f"{job_id}_0_log.out"
