"""How does the published copy of the writer become the newest state of the team's history? In one transaction, or not at all.

What the lake has is known by a name, the generation: the transaction writes it, and the copy it was made of stays beside the writer as
`team/<generation>.duckdb` (a hard link, no copy). Whenever the writer dies, the next publication asks the lake for its generation and
carries what differs from that very copy; where there is no such copy, it carries everything.
"""

from __future__ import annotations

import os
import socket
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import duckdb

from workflows_pkg.errors import SetupError
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.layout import Layout
from workflows_pkg.history.migrations import applied
from workflows_pkg.history.publish import sync
from workflows_pkg.history.rollup_records import TABLES
from workflows_pkg.history.schema import BOOKKEEPING, LIVE, first_row, literal, quoted
from workflows_pkg.history.team.changes import BASE, FRESH, carry_rows
from workflows_pkg.history.team.lake import connect_lake
from workflows_pkg.history.team.objects import carry_files, object_url
from workflows_pkg.history.team.place import TeamPlace
from workflows_pkg.history.team.tables import SEALED, is_of_version, make_tables

KEEP_STATES = timedelta(days=1)
"""A reader's connection shows the state of the moment it was opened for at least this long; afterwards its files may be deleted."""


def carry(files: Layout, place: TeamPlace, carried: str | None) -> str:
    """Carries what changed since the last publication, and returns its generation; `carried` is the one that is known to be there.

    Only the holder of the team's turn may call it. Raises what DuckDB and the servers say; nothing has changed for readers then.
    """
    known = {path.stem: path for path in files.team.glob("*.duckdb")}
    if carried in known and known[carried].samefile(files.published):
        return carried
    with closing(connect_lake(place)) as con:
        generation = _generation(con)
        base = known.get(generation or "")
        if generation is not None and base is not None and base.samefile(files.published):  # died before it could remember that
            _forget(known, base)
            return generation
        _forget(known, base)  # what was not committed never will be; hours of failures would fill the disk
        generation = uuid4().hex
        fresh = files.team / f"{generation}.duckdb"
        os.link(files.published, fresh)
        sync(files.team)
        con.execute(f"ATTACH {literal(fresh)} AS {FRESH} (READ_ONLY)")
        if base is not None:
            con.execute(f"ATTACH {literal(base)} AS {BASE} (READ_ONLY)")
        _carry(con, files, place, generation, has_base=base is not None)
    if base is not None:
        base.unlink()
    return generation


def tidy(place: TeamPlace) -> None:
    """Now and then: small changes become files, small files larger ones, and what no state of the last day needs is deleted.

    Files of finished days stay as they are: the next publication knows them by their names, and the writer merges months itself.
    """
    with closing(connect_lake(place)) as con:
        con.execute("CALL ducklake_flush_inlined_data('history')")
        for record_type in TABLES:
            of_table = f"'history', {literal(record_type.table)}, schema => {literal(LIVE)}"
            con.execute(f"CALL ducklake_rewrite_data_files({of_table})")
            con.execute(f"CALL ducklake_merge_adjacent_files({of_table})")
        con.execute(f"CALL ducklake_expire_snapshots('history', older_than => now() - INTERVAL {KEEP_STATES.days} DAY)")
        con.execute("CALL ducklake_cleanup_old_files('history', cleanup_all => true)")


def _generation(con: duckdb.DuckDBPyConnection) -> str | None:
    try:
        found = con.execute(f"SELECT generation FROM {BOOKKEEPING}.publications").fetchall()
    except duckdb.CatalogException:
        return None
    return str(found[0][0]) if found else None


def _carry(con: duckdb.DuckDBPyConnection, files: Layout, place: TeamPlace, generation: str, *, has_base: bool) -> None:
    con.execute(f"USE {FRESH}")
    version = applied(con)
    con.execute("USE history")
    same_version = is_of_version(con, version)
    there: dict[tuple[str, str], str] = {}
    with suppress(duckdb.CatalogException):
        found = con.execute(f"SELECT table_name, file, object FROM {BOOKKEEPING}.sealed_objects").fetchall()
        there = {(table, file): url for table, file, url in found}
    wanted = con.execute(f"SELECT table_name, file FROM {FRESH}.{BOOKKEEPING}.sealed_files WHERE row_count > 0").fetchall()
    # without the copy that was carried last nothing is known of the files but what is in them
    kept = {one for one in wanted if one in there and (has_base or there[one] == object_url(files, place.data, one[1]))}
    gone = {one: url for one, url in there.items() if one not in kept}
    new = {(table, file): object_url(files, place.data, file) for table, file in wanted if (table, file) not in kept}
    carry_files(files, place.data, {file: url for (_, file), url in new.items()})
    crash_point("after_team_upload")
    con.execute("BEGIN")
    try:
        if not same_version:
            make_tables(con)
        carry_rows(con, has_base=has_base and same_version)
        for (table, file), url in gone.items():
            (deleted,) = first_row(con.execute(f"DELETE FROM {SEALED}.{quoted(table)} WHERE filename = ?", [url]))
            if not deleted:  # its rows are there under another name, and would be there twice
                raise SetupError(
                    f"The team's history has {url} no longer under its name: somebody merged its files.",
                    fix="Empty its schema and folder, and publish anew with: workflows history sync",
                )
            con.execute(f"DELETE FROM {BOOKKEEPING}.sealed_objects WHERE table_name = ? AND file = ?", [table, file])
        for (table, _), url in new.items():
            con.execute(
                f"CALL ducklake_add_data_files('history', {literal(table)}, {literal(url)}, schema => {literal(SEALED)}, "
                "allow_missing => true, ignore_extra_columns => true)"
            )
        if new:
            con.executemany(
                f"INSERT INTO {BOOKKEEPING}.sealed_objects VALUES (?, ?, ?)", [[*one, url] for one, url in new.items()]
            )
        if not same_version:
            con.execute(f"DELETE FROM {BOOKKEEPING}.migrations")
            con.execute(f"INSERT INTO {BOOKKEEPING}.migrations SELECT name, applied_at FROM {FRESH}.{BOOKKEEPING}.migrations")
        con.execute(f"DELETE FROM {BOOKKEEPING}.publications")
        con.execute(
            f"INSERT INTO {BOOKKEEPING}.publications VALUES (?, ?, ?)", [generation, socket.gethostname(), datetime.now(UTC)]
        )
        crash_point("before_team_commit")
        con.execute("COMMIT")
    except BaseException:
        with suppress(duckdb.Error):  # the first error is the one to show
            con.execute("ROLLBACK")
        raise
    crash_point("after_team_commit")


def _forget(known: dict[str, Path], but: Path | None) -> None:
    for path in known.values():
        if path != but:
            path.unlink(missing_ok=True)
