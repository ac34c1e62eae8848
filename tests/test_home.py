"""Surroundings as they are in containers: folders that cannot be written, users without a name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paceline import home
from tests import ROOT

SMALL = """
workload:
  data: {class: "%(root)s/tests/workload.py:LinearRule"}
  task: {class: "%(root)s/tests/workload.py:Tower"}
  target: {loss: 0.4}
  budget: {examples: 200, evaluations: 1}
algorithms: {sync_sgd: }
scale: {workers: [2], batch_size: 10}
"""
# As a user of a number that has no name, for whom the checkout is read-only.
AS_NOBODY = f"""
mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT} &&
exec unshare --user --map-user=12345 "$@"
"""


def call(
    folder: Path, *arguments: str, as_nobody: bool = False, **environment: str
) -> "subprocess.CompletedProcess[str]":
    file = folder / "small.yaml"
    file.write_text(SMALL % {"root": ROOT})
    user = ["unshare", "--mount", "sh", "-c", AS_NOBODY, "sh"]
    known = {k: v for k, v in os.environ.items() if k not in ("USER", "LOGNAME", "TMPDIR")}
    return subprocess.run(
        [*(user if as_nobody else ()), sys.executable, "-m", "benchmarks", *arguments, str(file)],
        cwd=ROOT,
        env=known | environment,
        capture_output=True,
        text=True,
        timeout=170,
    )


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to mount a checkout read-only"
)


@needs_root
def test_a_user_without_a_name_or_a_home_runs_from_a_read_only_checkout(tmp_path: Path) -> None:
    done = call(tmp_path, "run", as_nobody=True, HOME="/nonexistent", PACELINE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    assert (tmp_path / "reports" / "output" / "small.pdf").exists()


@needs_root
def test_a_folder_that_cannot_be_written_to_is_told_with_the_variable(tmp_path: Path) -> None:
    done = call(tmp_path, "run", as_nobody=True, HOME="/nonexistent")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: cannot write to {ROOT}: it is read-only for this user; set PACELINE_HOME to a folder"
        " that you can write to\n"
    )


def test_a_locale_without_other_letters_runs_as_any(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = call(tmp_path, "run", PACELINE_HOME=str(tmp_path), **plain)
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = call(tmp_path, "run", PACELINE_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write to {tmp_path}/file/home: Not a directory; ")


def test_a_long_folder_for_temporary_files_is_told_with_the_variable(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 85)
    long.mkdir()
    done = call(tmp_path, "run", PACELINE_HOME=str(tmp_path), TMPDIR=str(long))
    assert done.returncode == 2
    assert done.stderr == (
        f"error: the path of the folder for temporary files, {long}, is too long for the sockets in it;"
        " set TMPDIR to one of at most 75 characters\n"
    )


def test_sockets_fit_into_the_longest_folder_for_temporary_files(tmp_path: Path) -> None:
    """What multiprocessing adds to it, by doing it."""
    base = Path("/tmp")
    longest = base / ("x" * (home.LONGEST_TEMPORARY - len(str(base)) - 1))
    longest.mkdir(exist_ok=True)
    try:
        text = "from multiprocessing.connection import *; print(Listener(family='AF_UNIX').address)"
        done = subprocess.run(
            [sys.executable, "-c", text],
            env=os.environ | {"TMPDIR": str(longest)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(longest))
    finally:
        longest.rmdir()


def test_a_current_folder_that_is_gone_is_told(tmp_path: Path, monkeypatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.delenv("PACELINE_HOME", raising=False)
    gone.rmdir()
    with pytest.raises(home.HomeError, match="set PACELINE_HOME"):
        home.home()
