"""The package as it is installed, away from the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paceline import home
from tests import ROOT
from tests.checkout import BENCHMARK


class Installed:
    """A wheel of the checkout, unpacked into a folder, and an empty folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.packages, self.cwd = folder / "packages", folder / "empty"
        self.cwd.mkdir()
        shutil.copytree(ROOT / "src", folder / "source" / "src")  # whose links become files
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, folder / "source" / name)
        # Without the network: with the setuptools that is here, and beside the dependencies.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        options = ["--no-build-isolation", "--disable-pip-version-check", "--target", self.packages]
        subprocess.run([*pip, *options, folder / "source"], check=True, timeout=120)

    def call(self, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        return subprocess.run(
            command,
            cwd=self.cwd,
            env={**inherited, "PYTHONPATH": str(self.packages), **variables},
            capture_output=True,
            text=True,
            timeout=170,
        )

    def paceline(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(self.packages / "bin" / "paceline")]
        return self.call(*command, *arguments, **variables)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


def test_a_benchmark_runs_from_an_empty_folder_and_leaves_its_state_there(installed):
    (installed.cwd / "tiny.yaml").write_text(BENCHMARK)
    before = sorted(path for path in installed.packages.rglob("*") if path.suffix != ".pyc")
    done = installed.paceline("run", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert (installed.cwd / "mlflow.db").is_file()
    assert (installed.cwd / "reports" / "output" / "tiny.pdf").is_file()
    assert sorted(p for p in installed.packages.rglob("*") if p.suffix != ".pyc") == before
    read = "import paceline; print(len(paceline.load_results('tiny').trials), paceline.__file__)"
    found = installed.call(sys.executable, "-P", "-c", read)
    assert found.stdout.split() == ["2", str(installed.packages / "paceline" / "__init__.py")]


def test_the_shipped_benchmarks_are_part_of_it(installed):
    listed = installed.paceline("list").stdout
    shipped = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.yaml"))
    assert shipped
    assert all(name in listed for name in shipped)


def test_state_lies_in_paceline_home(monkeypatch, tmp_path):
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert home.default_store() == f"sqlite:///{tmp_path / 'state' / 'mlflow.db'}"
    assert home.writable_home() == tmp_path / "state"
    (tmp_path / "file").touch()
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "file"))
    with pytest.raises(home.HomeError, match="set PACELINE_HOME to a folder"):
        home.writable_home()


def test_the_public_names_are_there_and_nothing_heavy_is_imported_for_them():
    script = "import sys, paceline; print('torch' in sys.modules, *paceline.__all__)"
    heavy, *names = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert heavy == "False"
    import paceline

    assert all(getattr(paceline, name).__name__ == name for name in names)
    with pytest.raises(AttributeError, match="has no attribute 'Tsk'"):
        _ = paceline.Tsk
