"""How is history written, by one writer at a time, and read, by anybody at any time?

    with writer(home) as history:                      # waits for its turn; BusyError names who is writing
        with history.transaction():
            history.upsert(Run, rows)
                                                       # leaving publishes what was written
    open_history(home).execute("select * from runs").df()

`at`, the instant of an event, is a word of SQL: write `"at"`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import pyarrow as pa

from workflows_pkg.errors import BusyError, SetupError, WorkflowsError, bounded
from workflows_pkg.history import rollups
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.layout import Layout, default_home, layout
from workflows_pkg.history.lock import only_writer
from workflows_pkg.history.migrations import MIGRATIONS, applied, migrate, refuse_newer, refuse_older
from workflows_pkg.history.publish import publish
from workflows_pkg.history.questions import frame
from workflows_pkg.history.records import Event, Record, Run, StepAttempt
from workflows_pkg.history.rollup_records import TABLES
from workflows_pkg.history.schema import LIVE, arrow_schema, columns, create_table, first_row, literal, names, quoted, same_key
from workflows_pkg.history.sealed import (
    SEAL_AFTER,
    as_pattern,
    create_views,
    days_to_seal,
    merge_months,
    months_to_merge,
    seal_days,
    sealed_rows,
    sweep,
    views_are_current,
)
from workflows_pkg.history.team.place import TeamPlace, team_place

if TYPE_CHECKING:
    from workflows_pkg.history.team.turn import Turn

Rows = Sequence[Record] | pd.DataFrame | pa.Table

_INCOMING = "incoming_rows"
"""Name under which given rows are shown to DuckDB for the length of one statement."""

_STORAGE_VERSION = "v1.5.0"
"""Format of the files, the oldest DuckDB we support: left to itself, DuckDB 2 writes one that 1.5 cannot read."""

_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
"""Kinds of statement a question may be; DESCRIBE and SHOW are SELECT to DuckDB."""

FEW_ROWS = 20_000
"""Up to so many rows come in a few seconds of a busy instance. To land 2,000 took 0.38 s of the processor with one thread and 0.54 s with
two, of which one mostly waits: DuckDB shares out 122,880 rows at a time.
"""

_SLACK_BYTES = 64 * 2**20
"""A hot database with more than this, and more than half of it, free is written anew: every publish copies the free space
too.
"""


class Writer:
    """The only writer of one history. `con` is the hot database; its views `main.<table>` show sealed rows too."""

    def __init__(self, con: duckdb.DuckDBPyConnection, files: Layout, team: Turn | None = None) -> None:
        self.con = con
        self.files = files
        self._team = team
        self._depth = 0

    def expect(self, rows: int) -> None:
        """Makes ready for about so many rows: one thread where they are few, else one for each core."""
        if rows <= FEW_ROWS:
            self.con.execute("SET threads = 1")
        else:
            _on_own_cores(self.con)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All of the block or nothing of it. Inside another transaction it joins that one."""
        if self._depth == 0:
            self.con.execute("BEGIN")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                with suppress(
                    duckdb.Error
                ):  # DuckDB has rolled back by itself after some errors; the first error is the one to show
                    self.con.execute("ROLLBACK")
            raise
        self._depth -= 1
        if self._depth == 0:
            crash_point("before_commit")
            self.con.execute("COMMIT")
            crash_point("after_commit")

    def upsert(self, record_type: type[Record], rows: Rows) -> int:
        """Writes `rows`, in place of those with the same key, and returns how many; of rows with one key the last counts.

        A missing column, or a missing value in a column that must have one, takes the record's default. Events never change:
        one that is there already, sealed or not, is left alone.
        """
        if isinstance(rows, pd.DataFrame):
            given, have = rows, [str(name) for name in rows.columns]
        elif isinstance(rows, Sequence):
            given, have = to_table(record_type, rows), list(record_type.model_fields)
        else:
            given, have = rows, rows.column_names
        unknown = sorted(set(have) - set(record_type.model_fields))
        if unknown:
            raise ValueError(f"table '{record_type.table}' has no column {', '.join(map(repr, unknown))}")
        if len(given) == 0:
            return 0
        table = f"{LIVE}.{quoted(record_type.table)}"
        self.con.register(_INCOMING, given)
        try:
            with self.transaction():
                self.con.execute(
                    f"create or replace temp table upserted as select {_typed(record_type, have)} from "
                    f"(select *, row_number() over () as given_order from {_INCOMING}) "
                    f"qualify row_number() over (partition by {names(record_type.key)} order by given_order desc) = 1"
                )
                if record_type is Event:
                    self.con.execute(f"delete from upserted u using {table} t where {same_key(record_type, 't', 'u')}")
                    select = self.unsealed("upserted") or "select * from upserted"
                    (count,) = first_row(self.con.execute(f"insert into {table} by name {select}"))
                else:
                    with self._rollups_of(record_type):
                        self.con.execute(f"delete from {table} t using upserted u where {same_key(record_type, 't', 'u')}")
                        (count,) = first_row(self.con.execute(f"insert into {table} by name select * from upserted"))
                self.con.execute("drop table upserted")
        finally:
            self.con.unregister(_INCOMING)
        return int(count)

    def _rollups_of(self, record_type: type[Record]) -> AbstractContextManager[None]:
        """Keeps the rollups while the rows of `upserted` are written."""
        if record_type not in (Run, StepAttempt):
            return nullcontext()
        days = None
        if record_type is Run:
            days = first_row(self.con.execute("select min(created_at)::date, max(created_at)::date from upserted"))
        return rollups.kept(self.con, self.files, "select run_id from upserted", days)

    def delete(self, record_type: type[Record], **equal: object) -> None:
        """Deletes the rows whose named columns have the given values, such as `delete(Suggestion, workflow="etl")`.

        Only from tables without a day: what is filed under a day may be sealed, and is history.
        """
        if record_type.day is not None:
            raise ValueError(f"rows of '{record_type.table}' are history and are not deleted one by one")
        where = " and ".join(f"{quoted(name)} = ?" for name in equal) or "true"
        with self.transaction():
            self.con.execute(f"delete from {LIVE}.{quoted(record_type.table)} where {where}", list(equal.values()))

    def unsealed(self, candidates: str) -> str | None:
        """A SELECT of those rows of the relation `candidates`, which has the columns of `events`, that are not sealed already; None
        where none of them can be.
        """
        first, last = first_row(self.con.execute(f'select min("at"), max("at") from {candidates}'))
        # The same event has the same instant, so only files around these instants can hold it.
        sealed = None if first is None else sealed_rows(self.con, self.files, Event, instants=(first, last))
        if sealed is None:
            return None
        return f"select * from {candidates} c where not exists (select 1 from ({sealed}) h where {same_key(Event, 'h', 'c')})"

    def seal(self, before: date) -> int:
        """Moves finished days before `before` (UTC) into Parquet and returns the number of rows; readers see no difference."""
        groups = days_to_seal(self.con, before)
        if groups:
            with self.transaction():
                sweep(self.con, self.files)
        moved = 0
        for days in groups:
            with self.transaction():
                moved += seal_days(self.con, self.files, days, before)
        months = months_to_merge(self.con, before)
        if months:
            with self.transaction():
                merge_months(self.con, self.files, months)
        return moved

    def publish(self) -> bool:
        """Shows readers what was committed; False where they see it already. Not inside a transaction."""
        if self._depth:
            raise RuntimeError("publish() belongs after the transaction: readers see committed rows only")
        changed = publish(self.con, self.files)
        if self._team is not None:
            self._team.publish()
        return changed


@contextmanager
def writer(home: Path, wait_s: float = 30) -> Generator[Writer]:
    """The only writer of the history under `home`; leaving the block seals days that are due, and publishes.

    Raises BusyError when another process or thread is still writing after `wait_s` seconds, SetupError when the history is
    of a later version or cannot be read.
    """
    files = layout(home)
    files.sealed.mkdir(parents=True, exist_ok=True)
    with only_writer(files.lock, wait_s), _turn(files, wait_s) as team:
        con = _open_hot(files)
        try:
            migrated = migrate(con, str(files.home))
            history = Writer(con, files, team)
            if migrated or not views_are_current(con, files):
                with history.transaction():
                    create_views(con, files)
            if not rollups.are_current(con):
                with history.transaction():
                    rollups.rebuild(con)
            yield history
            history.seal(datetime.now(UTC).date() - SEAL_AFTER)
            with history.transaction():
                rollups.tidy(con)
            history.publish()
        finally:
            con.close()


def _turn(files: Layout, wait_s: float) -> AbstractContextManager[Turn | None]:
    if team_place() is None:  # most histories are one machine's, and load nothing for a team
        return nullcontext()
    from workflows_pkg.history.team.turn import turn

    return turn(files, wait_s)


def open_history(home: Path) -> duckdb.DuckDBPyConnection:
    """A connection to the published history, for reading: every table of the data dictionary by its name, instants in UTC.

    It never waits for the writer nor keeps it waiting, shows one state for as long as it is held, and before anything was
    written shows empty tables. It reads nothing else: no other files, no DataFrames by their variable's name (use
    `con.register`), no settings. Raises SetupError when the history is of another version or cannot be read.

    Where history is shared (WORKFLOWS_HISTORY), it is the team's, except in the home that writes it, whose own copy is the newest.
    """
    files = layout(home)
    place = team_place()
    if place is not None and not files.writes_for_team:
        return open_team(place) or _empty()
    if not files.published.exists():
        return _empty()
    # Not duckdb.connect(published): within one process that gives the file it has open already, even when a newer one is there.
    con = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    try:
        con.execute("SET TimeZone = 'UTC'")
        _without_progress_bar(con)  # it would be drawn into whatever a command prints
        con.execute(f"ATTACH {literal(files.published)} AS history (READ_ONLY)")
        con.execute("USE history")
        already = applied(con)
    except duckdb.Error as error:
        con.close()
        raise _unreadable(files.published, error) from error
    refuse_newer(already, [name for name, _ in MIGRATIONS], str(files.published))
    refuse_older(already, str(files.published))
    # DuckDB checks the name of a file, and the pattern as it was written
    return _only_reading(con, [f"{files.sealed}/", f"{as_pattern(files.sealed)}/"])


def open_team(place: TeamPlace) -> duckdb.DuckDBPyConnection | None:
    """A connection to the newest state of a team's history, as `open_history` gives it; None where nothing was published yet.

    It shows that state for as long as it is held, a day at least. Raises SetupError where it cannot be reached or is of another version.
    """
    from workflows_pkg.history.team.lake import connect_lake, last_snapshot

    snapshot = last_snapshot(place)
    if snapshot is None:
        return None
    con = connect_lake(place, snapshot=snapshot)
    _without_progress_bar(con)
    already = applied(con)
    if not already:
        con.close()
        return None
    refuse_newer(already, [name for name, _ in MIGRATIONS], place.shown)
    refuse_older(already, place.shown)
    return _only_reading(con, [f"{place.data.url}/"])


def _empty() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    con.execute("SET TimeZone = 'UTC'")
    _without_progress_bar(con)
    con.execute(f"CREATE SCHEMA {LIVE}")
    for record_type in TABLES:
        con.execute(create_table(record_type))
        con.execute(f"CREATE VIEW main.{quoted(record_type.table)} AS FROM {LIVE}.{quoted(record_type.table)}")
    return _only_reading(con, [])


def _only_reading(con: duckdb.DuckDBPyConnection, folders: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """The connection, shut to everything but these folders."""
    # Readers may write into the allowed folder too, but its files have names that no statement of a reader mentions by chance.
    con.execute(f"SET allowed_directories = [{', '.join(map(literal, folders))}]")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
    return con


def connect(home: Path | str | None = None) -> duckdb.DuckDBPyConnection:
    """A connection to the history for reading, as `open_history` gives it; all questions take one, and so does plain SQL.

    home: the folder of the Dagster instance. None: where the command line finds it, in $DAGSTER_HOME or else in `.home` here. Raises
    SetupError where there is no such folder.
    """
    return open_history(default_home() if home is None else Path(home))


def query(con: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> pd.DataFrame:
    """The answer to a person's own SQL, one query that only reads; raises WorkflowsError with DuckDB's reason otherwise.

    Anything but a query is refused before it runs: COPY could write into the folder of the sealed days, which a reader may
    have the right to write.
    """
    try:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type not in _READS:
            found = f"{len(statements)} statements" if len(statements) != 1 else statements[0].type.name
            raise WorkflowsError(f"Expected one query, found {found}.", fix="Ask with SELECT; the history is only read.")
        return frame(con, sql, values)
    except duckdb.Error as error:
        raise WorkflowsError(
            f"DuckDB could not answer that: {bounded(error, 300)}",
            fix='The tables are described in docs/reference/data-dictionary.md; `at` is a word of SQL, write "at".',
        ) from error


def to_table(record_type: type[Record], rows: Sequence[Record]) -> pa.Table:
    """Records as an Arrow table with the column types of their table."""
    found: Sequence[Mapping[str, object]] = [row.model_dump() for row in rows]
    return pa.Table.from_pylist(list(found), schema=arrow_schema(record_type))


def _typed(record_type: type[Record], have: Sequence[str]) -> str:
    """The given columns as the table's types, missing ones and missing values by the record's defaults."""
    items: list[str] = []
    for column in columns(record_type):
        default = column.default or "NULL"
        value = f"coalesce({quoted(column.name)}, {default})" if column.name in have else default
        items.append(f"{value}::{column.sql_type} as {quoted(column.name)}")
    return ", ".join(items)


def _open_hot(files: Layout) -> duckdb.DuckDBPyConnection:
    try:
        con = _connect(files.hot)
        if _mostly_free(con):
            con = _rewritten(con, files)
    except duckdb.IOException as error:
        if "lock" in str(error):
            raise BusyError(
                f"{files.hot} is open in another program, which keeps this history from being written.",
                fix=f"Close that program; {files.published} is the file to look at.",
            ) from error
        raise _unreadable(files.hot, error) from error
    except duckdb.Error as error:
        raise _unreadable(files.hot, error) from error
    return con


def _connect(file: Path) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "storage_compatibility_version": _STORAGE_VERSION,
    }
    con = duckdb.connect(str(file), config=config)
    con.execute("SET TimeZone = 'UTC'")
    _on_own_cores(con)
    _without_progress_bar(con)  # it would be drawn into whatever a command prints
    return con


def _on_own_cores(con: duckdb.DuckDBPyConnection) -> None:
    """No more threads than this process has cores: DuckDB counts the machine's, and one that has to wait for a core spins (on one core,
    two threads took twice the processor time for the same rows).
    """
    con.execute("RESET threads")
    if hasattr(os, "sched_getaffinity"):
        (threads,) = first_row(con.execute("select current_setting('threads')::integer"))
        con.execute(f"SET threads = {min(threads, len(os.sched_getaffinity(0)))}")


def _without_progress_bar(con: duckdb.DuckDBPyConnection) -> None:
    """DuckDB's own bar would be drawn into a command's output. In a notebook without ipywidgets it has none, and refuses the setting."""
    with suppress(duckdb.InvalidInputException):
        con.execute("SET enable_progress_bar = false")


def _mostly_free(con: duckdb.DuckDBPyConnection) -> bool:
    block_size, total, free = first_row(con.execute("select block_size, total_blocks, free_blocks from pragma_database_size()"))
    return free * block_size > _SLACK_BYTES and free * 2 > total


def _rewritten(con: duckdb.DuckDBPyConnection, files: Layout) -> duckdb.DuckDBPyConnection:
    """The hot database without free space, put in place in one step; the log beside it is empty after the checkpoint."""
    fresh = files.hot.with_name("hot.rewritten.duckdb")
    fresh.unlink(missing_ok=True)
    con.execute("CHECKPOINT")
    con.execute(f"ATTACH {literal(fresh)} AS rewritten (STORAGE_VERSION {literal(_STORAGE_VERSION)})")
    con.execute("COPY FROM DATABASE hot TO rewritten")
    con.execute("DETACH rewritten")
    con.close()
    fresh.replace(files.hot)
    return _connect(files.hot)


def _unreadable(file: Path, error: duckdb.Error) -> SetupError:
    return SetupError(
        f"{file} cannot be read as a history: {bounded(error, 200)}",
        fix=f"Move {file} away and run: workflows history sync",
    )
