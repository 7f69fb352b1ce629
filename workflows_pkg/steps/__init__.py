"""What can a step do: the contract of step kinds, the built-in kinds, and those of plugins."""
