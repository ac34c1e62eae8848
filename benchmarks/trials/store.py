"""Opens MLflow's store, adds to a run that is there, and outlasts a restart of the database."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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

OPENING_S = 5  # in which a server has to answer the first request
PATIENCE_S = 60.0  # for which a database that was there may be away
_connected: set[str] = set()


class StoreError(RuntimeError):
    """A store cannot be opened."""


def open_store(uri: str, create: bool = True) -> MlflowClient:
    """A client of the store at `uri`, created first where it is a file that does not exist.

    Several first writers would corrupt the migrations of a fresh sqlite file, so only one process
    at a time opens a store.

    Args:
        uri: of the store, as MLflow takes it.
        create: whether a sqlite file may be made; a mistyped path should not become one.

    Raises:
        StoreError: there is no store, or it cannot be opened.
    """
    scheme, _, file = uri.partition(":///")
    file = file.partition("?")[0]
    if scheme == "sqlite" and not create and not Path(file).exists():
        raise StoreError(f"no store at {masked(uri)}: no benchmark has been run into it yet")
    lock = FileLock(f"{file}.lock") if scheme == "sqlite" else nullcontext()
    try:
        with lock, answering_within(OPENING_S):
            if uri.startswith("postgresql"):
                # Where nobody answers, MLflow would try for minutes.
                once = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": OPENING_S})
                once.connect().close()
                once.dispose()
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (MlflowException, ModuleNotFoundError, SQLAlchemyError) as error:
        reason = masked(_reason(error))
        raise StoreError(f"MLflow cannot open the store {masked(uri)}: {reason}") from error
    return client


def _reason(error: Exception) -> str:
    """What went wrong, in a few words: the innermost cause of a request that was not answered."""
    if "Max retries exceeded" in str(error) or "timed out" in str(error):
        return "no server answers there; start it, or correct MLFLOW_TRACKING_URI or --store"
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def answering_within(seconds: int) -> Iterator[None]:
    """Has MLflow ask a server once and wait so long, where it would otherwise ask for minutes."""
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
    """Stores the report and its figures with the run that they were drawn from."""
    for path in paths:
        client.log_artifact(run_id, str(path), "report")


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "do_connect")
def wait_for_database(dialect: Any, _: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connects, for MLflow and Optuna alike; a server that was there before is waited for."""
    if dialect.driver == "psycopg":
        # A statement prepared on one connection of a pool such as PgBouncer's is unknown on the next.
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
    """Whether an error comes of a connection that the database has ended."""
    while error is not None:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__ or error.__context__
    return False
