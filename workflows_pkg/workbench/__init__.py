"""What does Dagster show of all this: what a user merges into their definitions."""
