"""Results and reports. Both depend only on what MLflow holds."""
