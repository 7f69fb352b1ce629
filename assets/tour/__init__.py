"""The tour of `make run`: the example workflows on real data, from the first run to a suggestion tried and judged."""
