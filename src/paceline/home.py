"""Where Paceline keeps its state: the store, studies, caches and reports."""

import os
import pwd
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
LONGEST_TEMPORARY = 75  # bytes: the path of a socket may have 107, and multiprocessing adds 32


class HomeError(OSError):
    """The folder of the state cannot be used. The message names it and says what to set."""


def home() -> Path:
    """Returns the folder of the state: `PACELINE_HOME` if it is set, else the current folder.

    Raises:
        HomeError: if the current folder no longer exists.
    """
    try:
        return Path(os.environ.get("PACELINE_HOME") or ".").expanduser().resolve()
    except FileNotFoundError as error:
        raise HomeError(
            "the current folder no longer exists; change to another or set PACELINE_HOME"
        ) from error


def writable_home() -> Path:
    """Returns the folder of the state, and creates it if it is missing.

    Raises:
        HomeError: if the folder cannot be created or written to.
    """
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "it is read-only for this user"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise HomeError(
            f"cannot write to {folder}: {reason}; set PACELINE_HOME to a folder that you can write to"
        )
    return folder


def make_ready() -> None:
    """Prepares the environment of this process for running trials.

    Call it before importing any module that trials need.

    Raises:
        HomeError: if the folder of the state or the folder for temporary files cannot be used. The
            message says what to set.
    """
    folder = writable_home()
    temporary = tempfile.gettempdir()
    if len(os.fsencode(temporary)) > LONGEST_TEMPORARY:
        raise HomeError(
            f"the path of the folder for temporary files, {temporary}, is too long for the sockets in it;"
            f" set TMPDIR to one of at most {LONGEST_TEMPORARY} characters"
        )
    os.environ["PYTHONUTF8"] = "1"  # ranks may print any character, in any locale
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # a user in a container may have no name, and torch needs one
        os.environ.setdefault("USER", str(os.getuid()))
    caches = {
        "NUMBA_CACHE_DIR": "numba",
        "MPLCONFIGDIR": "matplotlib",
        "TRITON_CACHE_DIR": "triton",
    }
    if not os.access(Path.home(), os.W_OK):
        for variable, name in caches.items():
            os.environ.setdefault(variable, str(folder / ".cache" / name))


def default_store() -> str:
    """Returns the URI of the MLflow store: `MLFLOW_TRACKING_URI` if it is set, else a sqlite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def default_studies() -> str:
    """Returns the storage of Optuna's studies: `PACELINE_STUDIES` if it is set, else a journal file."""
    return os.environ.get("PACELINE_STUDIES") or str(home() / "studies.journal")
