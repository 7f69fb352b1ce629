"""What is a workflow: models, loading with positions, digest, difference, JSON Schema."""
