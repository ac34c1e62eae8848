"""Runs trials: the work of a rank, the parent that watches the ranks, and the records in MLflow."""
