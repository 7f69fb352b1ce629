"""What changed between two published copies of one history, and how are those rows put into the team's?

Rows of records are told apart by their key, and those of a changed key are deleted before they are inserted. A rollup may have several
rows of one key, each there to stay: they are told apart by all of their columns, so that a new one does not carry the others again.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from workflows_pkg.history.records import Event, Record
from workflows_pkg.history.rollup_records import TABLES, Rollup
from workflows_pkg.history.schema import BOOKKEEPING, LIVE, first_row, names, quoted, same_key

FRESH, BASE = "fresh", "base"
"""Names under which the copy to carry over, and the one that was carried last, are attached."""


def carry_rows(con: duckdb.DuckDBPyConnection, *, has_base: bool) -> None:
    """Makes the rows of the lake those of `fresh`, of which it has those of `base` (without one: any), inside a transaction."""
    tables: list[tuple[str, tuple[str, ...], type[Record] | None]] = [
        (f"{LIVE}.{quoted(kind.table)}", tuple(kind.model_fields), kind) for kind in TABLES
    ]
    tables.append((f"{BOOKKEEPING}.replaced_runs", ("run_id",), None))
    for table, columns, kind in tables:
        if not has_base:
            con.execute(f"DELETE FROM {table}")
            con.execute(f"INSERT INTO {table} BY NAME SELECT {names(columns)} FROM {FRESH}.{table}")
        elif kind is None or issubclass(kind, Rollup):
            _carry_copies(con, table, columns)
        else:
            _carry_keyed(con, table, columns, kind)


def _carry_keyed(con: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], kind: type[Record]) -> None:
    # Rows are told apart by a hash of 64 bits: compared as a whole, those of 120,000 attempts took a second of processor time more
    # at each publication. One change in 10^19 would go unseen. An event is never another one under the same key.
    row = "" if kind is Event else f", hash({names(columns)}) AS row_hash"
    _find_changed(con, table, f"{names(kind.key)}{row}", f"{names(kind.key)}{', row_hash' if row else ''}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE changed AS SELECT DISTINCT {names(kind.key)} FROM changed")
    same = same_key(kind, "t", "c")
    # a search of the lake costs more than one of the copy beside
    if first_row(con.execute(f"SELECT EXISTS (FROM changed c SEMI JOIN {BASE}.{table} t ON {same})"))[0]:
        con.execute(f"DELETE FROM {table} t USING changed c WHERE {same}")
    if first_row(con.execute("SELECT count(*) FROM changed"))[0]:
        con.execute(
            f"INSERT INTO {table} BY NAME SELECT {names(columns, 't')} FROM {FRESH}.{table} t SEMI JOIN changed c ON {same}"
        )


def _carry_copies(con: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]) -> None:
    _find_changed(con, table, names(columns), names(columns))
    more, fewer = first_row(con.execute("SELECT count(*) FILTER (side > 0), count(*) FILTER (side < 0) FROM changed"))
    if more:
        con.execute(f"INSERT INTO {table} BY NAME SELECT {names(columns, 'c')} FROM changed c, range(c.side) WHERE c.side > 0")
    if fewer:
        same = " AND ".join(f"t.{quoted(name)} IS NOT DISTINCT FROM c.{quoted(name)}" for name in columns)
        con.execute(f"DELETE FROM {table} t USING changed c WHERE c.side < 0 AND {same}")
        left = f"{FRESH}.{table} t SEMI JOIN (FROM changed WHERE side < 0) c ON {same}"
        con.execute(f"INSERT INTO {table} BY NAME SELECT {names(columns, 't')} FROM {left}")


def _find_changed(con: duckdb.DuckDBPyConnection, table: str, selected: str, told_by: str) -> None:
    """The temporary table `changed`: what there are more of in `fresh` (`side` says how many), or fewer (less than zero)."""
    sides = f"SELECT {selected}, 1 AS side FROM {FRESH}.{table} UNION ALL SELECT {selected}, -1 FROM {BASE}.{table}"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE changed AS SELECT {told_by}, sum(side)::bigint AS side FROM ({sides}) "
        f"GROUP BY {told_by} HAVING sum(side) <> 0"
    )
