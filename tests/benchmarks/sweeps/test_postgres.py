"""A sweep whose stores, MLflow's and Optuna's, are both on a PostgreSQL server of the test's own."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from glob import glob
from pathlib import Path

import pytest
import sqlalchemy
from optuna.trial import TrialState

from paceline.benchmarks.sweeps.handing_out import PROCESS, counted
from tests.checkout import output_of
from tests.lacking import lacking
from tests.sweeps import Sweep, read_until

pytestmark = pytest.mark.timeout(300)

SLOW = "--workload.data.pause_s=0.06"  # so that a trial lasts long enough to be interrupted
ONE_STUDY = ("--sweep.algorithms=[sync_sgd]",)


class Server:
    """PostgreSQL on loopback, in a folder that goes with it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="paceline-postgres-"))
        # PostgreSQL refuses to run as root.
        self.user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self.user:
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._call("initdb", "--auth=trust", "--username=paceline", "--no-sync")

    def _call(self, program: str, *arguments: str) -> None:
        found = shutil.which(program) or max(glob(f"/usr/lib/postgresql/*/bin/{program}"))
        command = [*self.user, found, f"--pgdata={self.folder / 'data'}", *arguments]
        # Not through a pipe, which the server would keep open.
        subprocess.run(command, cwd="/", check=True, timeout=60, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._start()

    def _start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        log = self.folder / "log"
        self._call("pg_ctl", "--wait", f"--log={log}", f"--options={options}", "start")

    def stop(self) -> None:
        self._call("pg_ctl", "--wait", "--mode=fast", "stop")

    def restart(self) -> None:
        self.stop()
        self._start()

    def database(self, name: str) -> str:
        """The address of a new database."""
        psql = shutil.which("createdb") or max(glob("/usr/lib/postgresql/*/bin/createdb"))
        where = ["--host=127.0.0.1", f"--port={self.port}", "--username=paceline", name]
        subprocess.run([psql, *where], check=True, timeout=60)
        return f"postgresql://paceline@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not (shutil.which("initdb") or glob("/usr/lib/postgresql/*/bin/initdb")):
        lacking("PostgreSQL's server programs are not installed")
    server = Server()
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.fixture
def checkout(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setenv("PACELINE_ARTIFACTS", (tmp_path / "artifacts").as_uri())
    number = len(list(server.folder.glob("used-*")))
    (server.folder / f"used-{number}").touch()
    return Sweep(
        tmp_path,
        store=server.database(f"mlflow{number}"),
        studies=server.database(f"studies{number}"),
    )


def test_of_two_sweeps_at_once_one_is_killed_and_no_trial_is_lost_or_doubled(checkout):
    """The one that is killed runs on what looks like another host: only its heartbeats tell."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a host name of its own")
    elsewhere = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh")
    together = (*ONE_STUDY, SLOW, "--share-machine", "--heartbeat=1", "--sweep.trials=4")
    killed = checkout.begin(*together, prefix=elsewhere)
    survivor = checkout.begin(*together)
    for process in (killed, survivor):
        read_until(process, "/4]")
    while not has_just_begun(checkout, "elsewhere"):
        assert killed.poll() is None
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    out, _ = output_of(survivor)
    assert survivor.returncode == 0, out
    (study,) = (s for n, s in checkout.opened().items() if "retrains" not in n)
    assert len(counted(study.trials)) == 4
    (lost,) = (trial for trial in study.trials if trial.state == TrialState.FAIL)
    again = [t for t in study.trials if t.params == lost.params and t.state == TrialState.COMPLETE]
    assert len(again) == 1
    drawn = [tuple(t.params.items()) for t in counted(study.trials)]
    assert len(set(drawn)) == 4
    assert [run.info.status for run in checkout.runs("trial")] == ["FINISHED"] * 2


def has_just_begun(checkout: Sweep, host: str) -> bool:
    """Whether a trial on that host has its parameters and is in its first second."""
    (study,) = (s for n, s in checkout.opened().items() if "retrains" not in n)
    return any(
        trial.params
        and trial.user_attrs.get(PROCESS, "").startswith(host)
        and datetime.now() - trial.datetime_start < timedelta(seconds=1)
        for trial in study.get_trials(states=(TrialState.RUNNING,))
    )


def test_no_statement_is_prepared_as_a_pool_of_connections_would_not_know_it(server):
    """What PgBouncer's transaction pooling needs."""
    with sqlalchemy.create_engine(server.database("pooled")).connect() as connection:
        assert connection.connection.driver_connection.prepare_threshold is None


def test_a_sweep_outlasts_a_restart_of_the_database(server, checkout):
    process = checkout.begin(*ONE_STUDY, SLOW, "--sweep.trials=3")
    read_until(process, "[2/3]")
    server.restart()
    out, _ = output_of(process)
    assert process.returncode == 0, out
    assert checkout.states("sync_sgd") == ["COMPLETE"] * 3
    assert [run.info.status for run in checkout.runs("trial")] == ["FINISHED"] * 2
