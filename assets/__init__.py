"""This repository's own code location: example workflows on real flights, the functions they call, and the tour of `make run`."""
