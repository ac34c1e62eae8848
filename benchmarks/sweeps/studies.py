"""The storage of the studies of a sweep: the file of a journal, or a database for several machines."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.study import Study
from sqlalchemy.exc import SQLAlchemyError

from paceline.benchmarks.sweeps.handing_out import BEAT, Signs
from paceline.benchmarks.sweeps.journal import DamagedJournal, mend
from paceline.benchmarks.trials.addresses import masked
from paceline.benchmarks.trials.store import StoreError

HEARTBEAT_S = 30
LOCK = 0x9ACE  # an arbitrary number that no other program locks in the same database


class Studies:
    """A storage of studies.

    Args:
        uri: the file of a journal, or the address of a database, `postgresql://...` or `sqlite:///...`.
        heartbeat_s: the seconds between two heartbeats of a running trial. After twice this time without
            a heartbeat, the trial is handed out again.

    Attributes:
        signs: the heartbeats of the trials in this storage.
        mended: a message about a repair of the journal, or None if it was intact.

    Raises:
        StoreError: if the storage cannot be opened.
    """

    def __init__(self, uri: str, heartbeat_s: int = HEARTBEAT_S) -> None:
        self.heartbeat_s, self.signs = heartbeat_s, Signs(2 * heartbeat_s)
        self.mended: str | None = None
        self.storage: RDBStorage | JournalStorage
        # The pool replaces a connection that a restart of the database has broken.
        lasting = {"pool_pre_ping": True}
        self._server: sqlalchemy.Engine | None = None
        if "://" in uri and not uri.startswith(("postgresql", "sqlite:///")):
            raise StoreError(
                f"studies are kept in a file, sqlite or PostgreSQL, not in {masked(uri)}"
            )
        file = Path(uri.removeprefix("sqlite:///"))
        self._lock_file = file.with_name(f"{file.name}.handing_out")
        try:
            if uri.startswith("postgresql"):
                self._server = sqlalchemy.create_engine(uri, **lasting)
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
            with self.lock():  # otherwise two first writers would both create the tables
                if "://" in uri:
                    self.storage = RDBStorage(uri, engine_kwargs=lasting)
                else:
                    self.mended = mend(file)
                    self.storage = JournalStorage(JournalFileBackend(uri))
        except DamagedJournal as error:
            raise StoreError(str(error)) from error
        except (OSError, SQLAlchemyError, ModuleNotFoundError) as error:
            reason = masked((str(error).splitlines() or [type(error).__name__])[0])
            raise StoreError(f"the studies in {masked(uri)} cannot be opened: {reason}") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the storage while trials are handed out. The lock ends with the process that holds it."""
        if self._server is None:
            with FileLock(self._lock_file):
                yield
            return
        with self._server.connect() as connection:
            # The lock lasts until the end of the transaction, which is the end of the block.
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            yield

    def study(self, name: str, objectives: int = 1) -> Study:
        """Returns the study of that name and creates it if needed. Every objective is minimised."""
        return optuna.create_study(
            study_name=name,
            storage=self.storage,
            directions=["minimize"] * objectives,
            load_if_exists=True,
        )

    @contextmanager
    def heartbeats(self, trial: optuna.Trial) -> Iterator[None]:
        """Sends heartbeats of `trial` during the block."""
        ended = threading.Event()

        def beat() -> None:
            count = 0
            while not ended.wait(self.heartbeat_s):
                count += 1
                # If a heartbeat fails, the next one makes up for it.
                with suppress(
                    OSError, SQLAlchemyError, StorageInternalError, UpdateFinishedTrialError
                ):
                    self.storage.set_trial_user_attr(trial._trial_id, BEAT, count)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
