"""Results and the report: a pure function of what MLflow holds."""
