"""The commands that serve a page: MLflow's and Optuna's."""

import argparse
import os
import sys
from typing import NoReturn

from paceline.benchmarks.trials.addresses import masked


def ui(options: argparse.Namespace) -> int:
    from paceline.benchmarks.trials.store import open_store

    uri = open_store(options.store).tracking_uri
    if not uri.startswith("http"):
        _serve(uri, options.port)
    print(f"MLflow: {masked(uri)}  (a server that runs already; open it in a browser)")
    return 0


def _serve(uri: str, port: int) -> NoReturn:
    """Replaces this process by the MLflow server, so that a signal ends the server itself."""
    server = [sys.executable, "-m", "mlflow", "server"]
    server += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {
        # Jobs evaluate language models. Without them the server starts in half the time.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # The URI may contain a password, and every user of the machine can read the arguments.
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    print(f"MLflow: http://127.0.0.1:{port}  (Ctrl-C ends it)", flush=True)
    os.execve(sys.executable, server, environment)


def dashboard(options: argparse.Namespace) -> int:
    from optuna_dashboard import run_server

    from paceline.benchmarks.sweeps.studies import Studies

    storage = Studies(options.studies).storage
    print(f"Optuna: http://127.0.0.1:{options.port}  (Ctrl-C ends it)", flush=True)
    run_server(storage, host="127.0.0.1", port=options.port)
    return 0
