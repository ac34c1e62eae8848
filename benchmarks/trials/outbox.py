"""Keeps writes to MLflow on disk until the store has accepted them.

Every write is first saved as a file in `spool`, in the folder of the state. Each process has its own
folder there. If the store answers, the write is sent at once. If not, the trial continues and its writes
wait. They are sent in order as soon as the store answers again: by this process or, if it has ended, by
the next one that opens the store. Every write can be sent twice without harm, because a response can be
lost after the store has accepted the write.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, unquote
from uuid import uuid4

import requests
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from paceline.benchmarks.trials.environment import is_gone, this_process
from paceline.benchmarks.trials.store import StoreError, answering_within
from paceline.home import home

HANDLE = "paceline.handle"  # the tag with the name of a run until the store has given it an id
SEND_S = 30  # seconds after which a request without an answer has failed
RETRY_S = 5.0  # seconds between two attempts at a store that does not answer
WAIT_S = 600.0  # seconds to wait for the store if nothing can continue without it
# The errors for which sending the write again is useless. All other errors may be temporary.
REFUSALS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
Note = Callable[[str], None]


class Outbox:
    """The writes of this process to one store, in order.

    Args:
        client: a client of the store.
        note: a function that is called with a message of one line when the store stops answering, when it
            answers again, and when it refuses a write.
        folder: the folder of the writes. The default is the folder of this process.
    """

    def __init__(self, client: MlflowClient, note: Note, folder: Path | None = None) -> None:
        self.client, self.note, self.adopted = client, note, folder is not None
        self.folder = folder or _folder_of(client) / quote(this_process(), safe="")
        self._ids: dict[str, str] = {}
        if (ids := self.folder / "ids").exists():
            self._ids = json.loads(ids.read_text())
        self._number = max((int(path.stem) for path in self._waiting()), default=0)
        self._tried = (
            "" if folder is None else "~"
        )  # the name of the last write that could not be sent
        self._retry_at: float | None = None

    def id_of(self, run_id: str) -> str:
        """Returns the id that the store has given to a run, or the run's handle if it has no id yet."""
        return self._ids.get(run_id, run_id)

    def create_run(self, experiment_id: str, tags: dict[str, str]) -> str:
        """Opens a run and returns its id, or a handle in place of the id if the store does not answer."""
        handle = f"pending-{uuid4().hex}"
        started = int(1000 * time.time())
        self._put("create_run", handle, experiment_id=experiment_id, tags=tags, start_time=started)
        return self.id_of(handle)

    def log(
        self,
        run_id: str,
        metrics: list[tuple[str, float, int, int]] | None = None,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Adds metrics, parameters and tags to a run. A metric is (name, value, milliseconds, step)."""
        self._put("log", run_id, metrics=metrics or [], params=params or {}, tags=tags or {})

    def log_dataset(self, run_id: str, **dataset: str) -> None:
        self._put("log_dataset", run_id, **dataset)

    def log_file(self, run_id: str, name: str, content: bytes) -> None:
        self._put("log_file", run_id, name=name, content=base64.b64encode(content).decode())

    def end(self, run_id: str, status: str) -> None:
        ended = int(1000 * time.time())
        self._put("end", run_id, status=status, end_time=ended)

    def settle(self) -> None:
        """Waits until everything has been sent.

        Raises:
            StoreError: if the store has not answered for `WAIT_S` seconds. The waiting writes are kept.
        """
        deadline = time.monotonic() + WAIT_S
        while not self.flush():
            if time.monotonic() > deadline:
                raise StoreError(
                    f"MLflow does not answer; what it lacks is kept in {self.folder}, and the next"
                    " command sends it"
                )
            time.sleep(0.2)

    def flush(self) -> bool:
        """Sends the waiting writes and returns whether none is left.

        It does not try if the store failed to answer within the last `RETRY_S` seconds.
        """
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            return False
        for path in self._waiting():
            try:
                with answering_within(SEND_S):
                    self._send(path)
            except (MlflowException, SQLAlchemyError, OSError) as error:
                if not _is_refusal(error):
                    self._away(path)
                    return False
                self._refuse(path, error)
            else:
                path.unlink()
        if self._retry_at is not None:
            self.note("MLflow answers again and has been sent what it lacked")
            self._retry_at = None
        self._tidy()
        return True

    def _waiting(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))

    def _put(self, what: str, run_id: str, **content: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        path = self.folder / f"{self._number:08}.json"
        _write(path, {"what": what, "run_id": self.id_of(run_id), **content})
        self.flush()

    def _away(self, path: Path) -> None:
        if self._retry_at is None and not self.adopted:
            self.note(f"MLflow does not answer; what it lacks waits in {self.folder}")
        self._tried = max(self._tried, path.name)
        self._retry_at = time.monotonic() + RETRY_S

    def _refuse(self, path: Path, error: Exception) -> None:
        kept = self.folder.parent / "refused" / f"{self.folder.name[-32:]}-{path.name}"
        kept.parent.mkdir(exist_ok=True)
        path.rename(kept)
        reason = (str(error).splitlines() or [""])[0]
        self.note(f"MLflow refuses what is in {kept}: {reason}")

    def _tidy(self) -> None:
        if not self.folder.exists() or self._waiting():
            return
        (self.folder / "ids").unlink(missing_ok=True)  # later writes contain ids and no handles
        for folder in (self.folder, self.folder.parent, self.folder.parent.parent):
            try:
                folder.rmdir()
            except OSError:  # the folder is not empty
                return

    def _send(self, path: Path) -> None:
        write = json.loads(path.read_text())
        run_id = self.id_of(write["run_id"])
        match write["what"]:
            case "create_run":
                self._create(write, again=path.name <= self._tried)
            case "log":
                self.client.log_batch(
                    run_id,
                    [Metric(*metric) for metric in write["metrics"]],
                    [Param(*param) for param in write["params"].items()],
                    [RunTag(*tag) for tag in write["tags"].items()],
                )
            case "log_dataset":
                fields = {k: v for k, v in write.items() if k not in ("what", "run_id")}
                tag = InputTag(MLFLOW_DATASET_CONTEXT, "training")
                self.client.log_inputs(run_id, [DatasetInput(Dataset(**fields), [tag])])
            case "log_file":
                with TemporaryDirectory() as folder:
                    (file := Path(folder) / write["name"]).write_bytes(
                        base64.b64decode(write["content"])
                    )
                    self.client.log_artifact(run_id, str(file))
            case "end":
                self.client.set_terminated(run_id, write["status"], write["end_time"])

    def _create(self, write: dict[str, Any], again: bool) -> None:
        handle, experiment = write["run_id"], write["experiment_id"]
        found = []
        if again:  # the store may have created the run, and its answer was lost
            found = self.client.search_runs([experiment], f"tags.`{HANDLE}` = '{handle}'")
        tags = write["tags"] | {HANDLE: handle}
        if parent := tags.get(MLFLOW_PARENT_RUN_ID):
            tags[MLFLOW_PARENT_RUN_ID] = self.id_of(parent)
        run = found[0] if found else self.client.create_run(experiment, write["start_time"], tags)
        self._ids[handle] = str(run.info.run_id)
        _write(self.folder / "ids", self._ids)


def send_what_others_left(client: MlflowClient, note: Note) -> None:
    """Sends the writes that ended processes have left in the spool of a store."""
    for folder in _orphans(client):
        outbox = Outbox(client, note, folder)
        count = len(outbox._waiting())
        if outbox.flush() and count:
            note(
                f"an earlier command had left {count} writes for MLflow, which it has been sent now"
            )


def _orphans(client: MlflowClient) -> Iterator[Path]:
    spool = _folder_of(client)
    for folder in sorted(spool.iterdir()) if spool.exists() else ():
        if folder.name != "refused" and is_gone(unquote(folder.name)):
            yield folder


def _folder_of(client: MlflowClient) -> Path:
    store = hashlib.sha256(str(client.tracking_uri).encode()).hexdigest()[:16]
    return home() / "spool" / store


def _write(path: Path, content: Any) -> None:
    """Writes a file completely or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.rename(path)


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, MlflowException):
        return str(error.error_code) in REFUSALS
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in (400, 404, 409, 413)
    return False
