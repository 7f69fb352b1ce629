"""What is Dagster shown under this project's own names? Told apart by them from what a user's location does.

Imported wherever a code location is loaded, so it imports nothing.
"""

SYNC_SENSOR = "workflows_history_sync"
"""The sensor whose body lands history."""

LEARNING_JOB = "workflows_learning"
"""The job that learns, and the sensor that asks for it."""

LEARNING_STEP = "workflows_learn"
"""Its one step, which Dagster's implicit job runs too where somebody materializes the assets by hand."""

BY_HAND = "__ASSET_JOB"
"""Dagster's implicit job of all assets: what runs where somebody clicks on Materialize."""
