"""What does every table and column mean? The data dictionary, made from the records.

`python -m workflows_pkg.history.dictionary` writes `docs/reference/data-dictionary.md`.
"""

from __future__ import annotations

from pathlib import Path

from workflows_pkg.history.records import Record
from workflows_pkg.history.rollup_records import TABLES
from workflows_pkg.history.schema import columns

TARGET = Path("docs/reference/data-dictionary.md")

_HEAD = """\
# Data dictionary

<!-- Written by `python -m workflows_pkg.history.dictionary` from the records in workflows_pkg/history; edit there. -->

The tables of `history.duckdb`. Any DuckDB client can open the file read-only, at any time and for as long as it likes.

Instants are UTC, durations are seconds, memory is MiB, money is USD. `NULL` means unknown, never zero; a column that is never
`NULL` is marked *always*. `at` is a word of SQL: write `"at"`.
"""


def data_dictionary() -> str:
    """The dictionary as Markdown: one section per table with its grain, key and columns."""
    contents = "\n".join(f"- [`{record_type.table}`](#{record_type.table}): {_purpose(record_type)}" for record_type in TABLES)
    return "\n".join([_HEAD, contents, *(_section(record_type) for record_type in TABLES)])


def _section(record_type: type[Record]) -> str:
    rows = "\n".join(
        f"| `{column.name}` | {'JSON text' if column.is_json else column.sql_type} | {'' if column.nullable else 'always'} "
        f"| {column.description.replace('|', '/')} |"
        for column in columns(record_type)
    )
    key = ", ".join(f"`{name}`" for name in record_type.key)
    filed = f" Filed under the day of `{record_type.day}`." if record_type.day else ""
    if record_type.day and "run_id" in record_type.key:
        filed = " Filed under the day on which its run was asked for."
    return f"""
## {record_type.table}

{_purpose(record_type)}

One row per {key}.{filed}

| column | type | | meaning |
|---|---|---|---|
{rows}
"""


def _purpose(record_type: type[Record]) -> str:
    return " ".join((record_type.__doc__ or "").split())


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(data_dictionary(), encoding="utf-8")
