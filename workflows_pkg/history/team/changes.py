"""What changed between two published copies of one history, and how are those rows put into the team's?

All rows of a key are taken together: a rollup may have several of one. What was carried already may be carried again, and nothing is
doubled: the rows of a changed key are deleted before they are inserted.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from workflows_pkg.history.records import Event
from workflows_pkg.history.rollup_records import TABLES
from workflows_pkg.history.schema import BOOKKEEPING, LIVE, first_row, names, quoted

FRESH, BASE = "fresh", "base"
"""Names under which the copy to carry over, and the one that was carried last, are attached."""


def carry_rows(con: duckdb.DuckDBPyConnection, *, has_base: bool) -> None:
    """Makes the rows of the lake those of `fresh`, of which it has those of `base` (without one: any), inside a transaction."""
    for record_type in TABLES:
        table = f"{LIVE}.{quoted(record_type.table)}"
        never_changes = record_type is Event
        _carry(con, table, tuple(record_type.model_fields), record_type.key, has_base, never_changes)
    _carry(con, f"{BOOKKEEPING}.replaced_runs", ("run_id",), ("run_id",), has_base, True)


def _carry(
    con: duckdb.DuckDBPyConnection, table: str, wanted: Sequence[str], key: Sequence[str], has_base: bool, never_changes: bool
) -> None:
    fresh, base, columns, keys = f"{FRESH}.{table}", f"{BASE}.{table}", names(wanted), names(key)
    if not has_base:
        con.execute(f"DELETE FROM {table}")
        con.execute(f"INSERT INTO {table} BY NAME SELECT {columns} FROM {fresh}")
        return
    con.execute(f"CREATE OR REPLACE TEMP TABLE changed_keys AS {_changed(fresh, base, columns, keys, never_changes)}")
    known = f"FROM changed_keys SEMI JOIN {base} USING ({keys})"  # a search of the lake costs more than one of the copy beside
    if first_row(con.execute(f"SELECT count(*) {known}"))[0]:
        same = " AND ".join(f"t.{quoted(name)} = c.{quoted(name)}" for name in key)
        con.execute(f"DELETE FROM {table} t USING changed_keys c WHERE {same}")
    if first_row(con.execute("SELECT count(*) FROM changed_keys"))[0]:
        con.execute(f"INSERT INTO {table} BY NAME SELECT {columns} FROM {fresh} SEMI JOIN changed_keys USING ({keys})")


def _changed(fresh: str, base: str, columns: str, keys: str, never_changes: bool) -> str:
    """The keys whose rows are not the same in both. Rows are told apart by a hash of 64 bits: compared as a whole, those of 50,000
    attempts took a second of processor time more at each publication. One change in 10^19 would go unseen.
    """
    row = "" if never_changes else f", hash({columns}) AS row_hash"
    sides = f"SELECT {keys}{row}, 1 AS side FROM {fresh} UNION ALL SELECT {keys}{row}, -1 FROM {base}"
    return f"SELECT DISTINCT {keys} FROM ({sides}) GROUP BY {keys}{'' if never_changes else ', row_hash'} HAVING sum(side) <> 0"
