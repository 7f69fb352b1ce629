"""Step kinds that tell people."""
