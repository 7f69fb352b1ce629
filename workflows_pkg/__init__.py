"""Analytics workbench for workflows on Dagster: write, run, learn, improve.

Import from the packages below; `docs/architecture.md` says which answers what.
"""
