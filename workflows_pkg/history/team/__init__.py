"""How does a team share one history? Its rows on PostgreSQL and object storage, carried there by the only writer.

Why DuckLake, and what lies where: docs/decisions/0005-team-history.md.
"""
