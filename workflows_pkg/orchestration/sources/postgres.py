"""How is Dagster's PostgreSQL database read without making Dagster wait?

Every question is a read-only transaction of its own that ends before its answer is used: it takes no lock but the one that keeps
a table from being dropped under it, waits for no other lock longer than `LOCK_WAIT_S`, and holds no old row versions for long.
Long answers come through a cursor on the server. A change (only a purge of the event log, and undoing it, make one) is a short
transaction on a connection of its own.

Dagster stores instants as local time of its connections, without saying so: psycopg2 sends `...+00:00`, and the column forgets
the zone. It is Dagster's server that sets the zone of both its connections and ours, so an instant is turned back by the zone
of this connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from workflows_pkg.errors import BusyError, MissingExtra, SetupError, bounded
from workflows_pkg.security.postgres_url import PostgresUrl

CONNECT_S = 5
"""How long a server may take to answer; libpq's own limit is none, and 2 the shortest it knows."""

STATEMENT_S = 120
"""How long one question may take: minutes of a big database that reads from disk, and not for ever."""

LOCK_WAIT_S = 5
"""A migration holds tables exclusively; whoever waits behind it keeps others waiting too."""

_SORT_MEMORY = "32MB"
"""What the server may hold in memory of one answer to sort it: some 25,000 events. Its own default, 4 MB, sends those of a few seconds of
a busy instance to disk, which takes longer than to read them.
"""

_FETCH_ROWS = 2_000
"""Rows of one round trip: some MB of events."""

_BPCHAR = 1042
"""PostgreSQL's number of the type that marks a text whose stored bytes are wanted: one text may be broken, the others not."""

_SAFE_TO_SHOW = ("connection to server", "could not translate host name")
"""How libpq begins when a server refuses; when it does not understand a URL it quotes pieces of it, the password too."""

_RIGHTS = {"read": "SELECT", "change": "SELECT, INSERT and DELETE"}
_DONE = {"read": "read", "change": "changed"}

Result = TypeVar("Result")


class PostgresServer:
    """One database of a PostgreSQL server. Threads take turns; a connection that was lost is made again."""

    def __init__(self, url: PostgresUrl) -> None:
        self._url = url
        self._connection: Any = None  # psycopg2 publishes no types
        self._changing: Any = None
        self._was_connected = False
        self._turn = threading.Lock()
        self._asked_by = 0

    @property
    def place(self) -> str:
        return f"postgresql://{self._url.place}"

    def exists(self) -> bool:
        return True

    def read(self, query: Callable[[Any], Result]) -> Result:
        if self._asked_by == threading.get_ident():
            raise RuntimeError("a question within a question would end the transaction of the first")
        with self._turn:
            self._asked_by = threading.get_ident()
            try:
                return self._read(query)
            finally:
                self._asked_by = 0

    def cancel(self) -> None:
        connection = self._connection
        if self._asked_by and connection is not None:
            with suppress(_driver().Error):
                connection.cancel()

    def _read(self, query: Callable[[Any], Result]) -> Result:
        driver = _driver()
        try:
            with self._transaction() as select:
                return query(select)
        except driver.Error as error:
            if self._connection is not None or not self._was_connected:
                raise self._explained(error) from None  # its text may quote the URL
        try:  # the connection was lost: a server that was started anew, or a proxy that lets idle ones go
            with self._transaction() as select:
                return query(select)
        except driver.Error as error:
            raise self._explained(error) from None

    def change(self, change: Callable[[Any], Result]) -> Result:
        """`change` of a cursor of psycopg2, in one transaction on a connection of its own, whose locks end with it.

        Raises BusyError where a lock is not to be had in time, SetupError for everything else; nothing has changed then.
        """
        driver = _driver()
        try:
            if self._changing is None or self._changing.closed:
                self._changing = driver.connect(self._url.dsn, connect_timeout=CONNECT_S, application_name="workflows")
                self._changing.set_client_encoding("UTF8")
            with self._changing, self._changing.cursor() as cursor:  # commits, or rolls back
                cursor.execute(f"set local statement_timeout = '{STATEMENT_S}s'; set local lock_timeout = '{LOCK_WAIT_S}s'")
                return change(cursor)
        except driver.Error as error:
            raise self._explained(error, "change") from None

    def insert(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Inserts the rows in one transaction; `sql` has `%s` in the place of all of them. Raises as `change` does."""
        _driver()
        from psycopg2.extras import execute_values

        self.change(lambda cursor: execute_values(cursor, sql, rows, page_size=500))

    def columns(self, table: str) -> set[str]:
        sql = "select attname from pg_attribute where attrelid = to_regclass(?) and attnum > 0 and not attisdropped"  # as searched for
        return self.read(lambda select: {row[0] for row in select(sql, (table,))})

    def utc(self, column: str) -> str:
        zone = "current_setting('TimeZone')"
        return f"to_char(({column} at time zone {zone}) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"

    def not_before(self, column: str) -> str:
        # not by `utc`, which would have the server write the instant of every run as text
        return f"{column} at time zone current_setting('TimeZone') >= ?::timestamp at time zone 'UTC'"

    def as_bytes(self, column: str) -> str:
        return f"{column}::bpchar"  # the same bytes, of a type that no column of Dagster has: see _connect

    def first_bytes(self, column: str, most: int) -> str:
        cut = f"case when octet_length({column}) > {most} then left({column}, {most}) else {column} end"
        return f"({cut})::bpchar"  # the same bytes, of a type that no column of Dagster has: see _connect

    def close(self) -> None:
        with self._turn:
            for connection in (self._connection, self._changing):
                if connection is not None:
                    with suppress(_driver().Error):
                        connection.close()
            self._connection = self._changing = None

    @contextmanager
    def _transaction(self) -> Generator[Any]:
        driver = _driver()
        self._was_connected = self._connection is not None
        connection = self._connect()
        cursors: list[Any] = []

        def select(sql: str, values: Sequence[Any]) -> Any:
            cursor = connection.cursor(name=f"workflows_{len(cursors)}")
            cursors.append(cursor)
            cursor.itersize = _FETCH_ROWS
            cursor.execute(sql.replace("%", "%%").replace("?", "%s"), [_value(value) for value in values])
            return cursor

        try:
            with connection.cursor() as settings:
                settings.execute(
                    f"set local statement_timeout = '{STATEMENT_S}s'; set local lock_timeout = '{LOCK_WAIT_S}s'; "
                    f"set local max_parallel_workers_per_gather = 0; set local work_mem = '{_SORT_MEMORY}'; "
                    # answers are read to their end; of a cursor the server expects that a tenth is, and may choose a way that is long
                    "set local cursor_tuple_fraction = 1; set local datestyle = 'ISO, YMD'"
                )
            yield select
            for cursor in cursors:
                cursor.close()
            connection.rollback()  # nothing was written
        except driver.Error:
            with suppress(driver.Error):
                connection.rollback()
            if connection.closed:
                self._connection = None
            raise
        except BaseException:
            with suppress(driver.Error):
                connection.rollback()
            raise

    def _connect(self) -> Any:
        if self._connection is None:
            driver = _driver()
            connection = driver.connect(self._url.dsn, connect_timeout=CONNECT_S, application_name="workflows")
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            connection.set_client_encoding("UTF8")
            kinds = driver.extensions
            kinds.register_type(kinds.new_type((_BPCHAR,), "STORED", kinds.BYTES), connection)
            self._connection = connection
        return self._connection

    def _explained(self, error: Any, what: str = "read") -> SetupError | BusyError:
        """What to do about it; of the server's words only the first line, and that only where it cannot quote the URL."""
        code = error.pgcode or ""
        said = bounded(str(error).strip().partition("\n")[0], 200)
        if code == "55P03" or code == "57014":  # lock_not_available, query_canceled by the timeout
            return BusyError(f"PostgreSQL at {self._url.place} did not answer in time: {said}", fix="Try again later.")
        if code.startswith(("53", "57P")):  # too many connections, starting up or shutting down
            return BusyError(f"PostgreSQL at {self._url.place} takes no questions now: {said}", fix="Try again later.")
        if code == "42501":
            return SetupError(
                f"PostgreSQL at {self._url.place} does not let this user {what}: {said}",
                fix=f"Grant {_RIGHTS[what]} on Dagster's tables.",
            )
        said = self._url.without_secrets(said)
        if self._connection is not None or self._changing is not None:
            return SetupError(
                f"PostgreSQL at {self._url.place} cannot be {_DONE[what]}: {said}", fix="Check that it is Dagster's."
            )
        if not said.startswith(_SAFE_TO_SHOW):
            return SetupError(
                f"PostgreSQL at {self._url.place} cannot be reached: libpq does not understand the URL.",
                fix="Write postgresql://user:password@host:5432/database, with %-codes for special characters.",
            )
        return SetupError(
            f"PostgreSQL at {self._url.place} cannot be reached: {said}", fix="Check host, port, database, user and password."
        )


def _value(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _driver() -> Any:
    try:
        import psycopg2
    except ImportError as error:
        raise MissingExtra("Reading an instance on PostgreSQL", "postgres") from error
    return psycopg2
