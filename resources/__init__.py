"""What this repository's code location grants to its workflows, read from the environment."""
