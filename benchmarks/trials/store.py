"""Opens the MLflow store, attaches reports to its runs, and survives a restart of the database."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from filelock import FileLock
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from paceline.benchmarks.trials.addresses import masked

OPENING_S = 5  # seconds within which a server has to answer the first request
LOCK = 0x9ACD  # any number that no other program locks in the same database
PATIENCE_S = 60.0  # seconds for which a known database may be unavailable
_connected: set[str] = set()


class StoreError(RuntimeError):
    """A store cannot be opened or does not answer."""


def open_store(uri: str, create: bool = True) -> MlflowClient:
    """Returns a client of the store at `uri`. If it is a sqlite file that does not exist, creates it.

    Only one process at a time opens a database, because several first writers would all create its
    tables.

    Args:
        uri: the URI of the store, as MLflow takes it.
        create: if false, a missing sqlite file is an error. So a mistyped path does not create a store.

    Raises:
        StoreError: if there is no store, or if it cannot be opened.
    """
    scheme, _, file = uri.partition(":///")
    file = file.partition("?")[0]
    if scheme == "sqlite" and not create and not Path(file).exists():
        raise StoreError(f"no store at {masked(uri)}: no benchmark has been run into it yet")
    try:
        with _alone(uri, file), answering_within(OPENING_S):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (MlflowException, ModuleNotFoundError, SQLAlchemyError) as error:
        reason = masked(_reason(error))
        raise StoreError(f"MLflow cannot open the store {masked(uri)}: {reason}") from error
    return client


@contextmanager
def _alone(uri: str, file: str) -> Iterator[None]:
    """Keeps other processes from opening the same database until the block ends."""
    if uri.startswith("sqlite"):
        with FileLock(f"{file}.lock"):
            yield
    elif uri.startswith("postgresql"):
        # It also shows soon if no server answers: MLflow would try for minutes.
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": OPENING_S})
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            yield
        engine.dispose()
    else:
        yield


def _reason(error: Exception) -> str:
    """Returns the cause of an error in one line. If no server answered, it says so and what to do."""
    if "Max retries exceeded" in str(error) or "timed out" in str(error):
        return "no server answers there; start it, or correct MLFLOW_TRACKING_URI or --store"
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def answering_within(seconds: int) -> Iterator[None]:
    """Makes MLflow send each request once and wait `seconds` for the answer.

    By default it would repeat a request for minutes.
    """
    hurried = {
        MLFLOW_HTTP_REQUEST_MAX_RETRIES: 0,
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR: 0,
        MLFLOW_HTTP_REQUEST_TIMEOUT: seconds,
    }
    before = {variable.name: os.environ.get(variable.name) for variable in hurried}
    for variable, number in hurried.items():
        variable.set(number)
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text


def attach(client: MlflowClient, run_id: str, paths: list[Path]) -> None:
    """Stores a report and its figures as artifacts of the run that they describe."""
    for path in paths:
        client.log_artifact(run_id, str(path), "report")


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "do_connect")
def wait_for_database(dialect: Any, _: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connects to a database, for MLflow and for Optuna.

    If a connection to the same server succeeded before, waits for the server for up to `PATIENCE_S`
    seconds.
    """
    if dialect.driver == "psycopg":
        # With a pool such as PgBouncer, a statement prepared on one connection is unknown on the next.
        options.setdefault("prepare_threshold", None)
    deadline, where = time.monotonic() + PATIENCE_S, repr((arguments, options))
    while True:
        try:
            connection = dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError:
            if where not in _connected or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            _connected.add(where)
            return connection


def is_connection_lost(error: BaseException | None) -> bool:
    """Returns whether the cause of an error is a connection that the database has ended."""
    while error is not None:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__ or error.__context__
    return False
