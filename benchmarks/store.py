"""Opens MLflow's store, and adds to a run that is there."""

from pathlib import Path

from filelock import FileLock
from mlflow.tracking import MlflowClient

from benchmarks import ROOT


def open_store(uri: str) -> MlflowClient:
    """A client of the store at `uri`, created first where it is a file that does not exist.

    Several first writers would corrupt the migrations of a fresh sqlite file, so only one process
    at a time opens a store.
    """
    lock = ROOT / ".cache" / "mlflow.lock"
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock):
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


def attach(client: MlflowClient, run_id: str, paths: list[Path]) -> None:
    """Stores the report and its figures with the run that they were drawn from."""
    for path in paths:
        client.log_artifact(run_id, str(path), "report")
