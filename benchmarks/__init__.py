"""The benchmarks, one YAML file each, and the code that reads, runs, tunes and measures them."""

import logging
import os

# Hide the messages and progress bars of MLflow. It reads these when it is imported.
logging.getLogger("alembic").setLevel(logging.WARNING)
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
