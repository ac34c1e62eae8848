"""Runs trials: what a rank does, the parent that watches it, the record, the writing to MLflow."""
