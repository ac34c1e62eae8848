"""The command line, `paceline COMMAND`; `--help` lists the commands."""

import io
import os
import sys
import traceback
from collections.abc import Iterable

from rich.console import Console

from paceline.benchmarks.cli.options import parser
from paceline.benchmarks.trials.addresses import masked

# The errors that are shown in one line, by module. Errors of the operating system are too.
MISTAKES = {
    "paceline.benchmarks.nodes.remote": "NodeLost",
    "paceline.benchmarks.spec.plugin": "ConfigError",
    "paceline.benchmarks.trials.rehearsal": "RehearsalFailed",
    "paceline.benchmarks.trials.rerun": "CannotRerun",
    "paceline.benchmarks.trials.store": "StoreError",
    "paceline.datasets.reading.cache": "DataError",
    "paceline.lightning_modules.backend.launch": "RankFailed",
    "paceline.reports.measures.results": "NoResults",
}


def _command_first(arguments: list[str], verbs: Iterable[str]) -> list[str]:
    """Returns the arguments with those before the command moved behind it."""
    place = next((i for i, argument in enumerate(arguments) if argument in verbs), 0)
    return [*arguments[place : place + 1], *arguments[:place], *arguments[place + 1 :]]


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0, 1 (something failed), 2 (a mistake) or 130 (interrupted).
    """
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
    options.overrides, options.given = overrides, ordered
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack a character of a table
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        return int(options.command(options))
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to continue")
        return 130
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> int:
    """Prints an error and returns the exit status. A mistake of the user is printed in one line."""
    if _is_mistake(error):
        _say(masked(f"error: {error}"))
        return int(getattr(error, "exit_status", 2))
    print(masked("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    return 1


def _say(message: str) -> None:
    Console(emoji=False, stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


def _is_mistake(error: Exception) -> bool:
    """Returns whether an error comes from the user or the machine, and not from a bug."""
    # A class whose module is not imported cannot have been raised. Importing it would take seconds.
    known = ((sys.modules.get(module), name) for module, name in MISTAKES.items())
    return isinstance(error, (OSError, *(getattr(m, name) for m, name in known if m)))
