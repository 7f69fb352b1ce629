"""What does `dagster.yaml` name? The classes that Dagster loads for an instance."""
