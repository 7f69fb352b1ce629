"""Step kinds that read, write and transform tables."""
