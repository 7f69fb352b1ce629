"""How is the team's history opened, to read it from any machine or to write it from one?

It is a DuckLake (https://ducklake.select): its catalogue, and changes of few rows, are tables of a PostgreSQL schema; everything else
is Parquet in the bucket. The rows lie as in a history of one machine: `live` and `sealed` tables, and one view per table in `main`.
"""

from __future__ import annotations

import importlib.util
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb

from workflows_pkg.errors import MissingExtra, SetupError, bounded
from workflows_pkg.history.schema import literal
from workflows_pkg.history.team.place import TeamPlace

CATALOGUE = "workflows_history"
"""The schema of the PostgreSQL database, so that the database may hold other things too; one team history to a database."""

CONNECT_S = 5
"""How long PostgreSQL may take to answer, and S3 to accept a connection."""

REQUEST_S = 20
"""How long one request to S3 may take; it is asked again once."""

INLINED_ROWS = 1000
"""A change of at most this many rows of a table stays in PostgreSQL. Measured: 0.5 ms a row there, 0.003 ms
in a file, of which each question has to read one more."""

_EXTENSIONS = ("httpfs", "postgres_scanner", "ducklake")
_NOT_FOR_THE_CATALOGUE = ("password", "options", "fallback_application_name")


def driver() -> Any:
    """psycopg2, which publishes no types."""
    try:
        import psycopg2
        import psycopg2.extensions  # pyright: ignore[reportUnusedImport]  makes the attribute of psycopg2
    except ImportError as error:
        raise MissingExtra("A team's history", "team") from error
    return psycopg2


def connect_catalogue(place: TeamPlace, name: str) -> Any:
    """A connection of psycopg2 to the database of the catalogue; raises SetupError where it is not to be had."""
    psycopg2 = driver()
    try:
        return psycopg2.connect(
            place.catalogue.dsn,
            connect_timeout=CONNECT_S,
            application_name=name[:63],
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
    except psycopg2.Error as error:
        raise SetupError(
            f"The team's history on PostgreSQL at {place.catalogue.place} cannot be reached: {explained(place, error)}",
            fix="Check host, port, database, user and password.",
        ) from None  # its text may quote the URL


def explained(place: TeamPlace, error: Exception) -> str:
    """What was said, on one line, without any login."""
    psycopg2 = driver()
    said = str(error).strip()
    if isinstance(error, psycopg2.ProgrammingError) and not getattr(
        error, "pgcode", None
    ):  # libpq quotes pieces of a URL it does not understand
        return "libpq does not understand the URL."
    for secret in (place.data.secret, place.data.session_token):
        said = said.replace(secret, "***") if secret else said
    return bounded(place.catalogue.without_secrets(said), 300)


def connect_lake(place: TeamPlace, *, snapshot: int | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB with the lake attached as `history`, in use: for reading the state `snapshot`, or for writing."""
    con = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    try:
        con.execute("SET TimeZone = 'UTC'")
        for name in _EXTENSIONS:
            con.execute(f"LOAD {literal(_extension(name))}")
        con.execute(f"SET http_timeout = {REQUEST_S}")
        con.execute("SET http_retries = 1")
        _give_logins(con, place)
        mode = f"DATA_INLINING_ROW_LIMIT {INLINED_ROWS}" if snapshot is None else f"READ_ONLY, SNAPSHOT_VERSION {snapshot}"
        con.execute(
            f"ATTACH {literal('ducklake:postgres:' + _address(place))} AS history (DATA_PATH {literal(place.data.url + '/')}, "
            f"METADATA_SCHEMA {literal(CATALOGUE)}, META_SECRET 'catalogue', {mode})"
        )
        con.execute("USE history")
    except duckdb.Error as error:
        con.close()
        raise SetupError(
            f"The team's history at {place.shown} cannot be opened: {explained(place, error)}",
            fix="Check that both servers answer, and their logins.",
        ) from None
    except BaseException:
        con.close()
        raise
    return con


def last_snapshot(place: TeamPlace) -> int | None:
    """The number of the newest state; None where nothing was ever published there."""
    psycopg2 = driver()
    with closing(connect_catalogue(place, "workflows reader")) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(f"select to_regclass('{CATALOGUE}.ducklake_snapshot') is not null")
            if not cursor.fetchone()[0]:
                return None
            cursor.execute(f"select max(snapshot_id) from {CATALOGUE}.ducklake_snapshot")
            return int(cursor.fetchone()[0])
        except psycopg2.Error as error:
            raise SetupError(
                f"The team's history on PostgreSQL at {place.catalogue.place} cannot be read: {explained(place, error)}",
                fix=f"Grant USAGE on the schema {CATALOGUE} and SELECT on its tables to this user.",
            ) from None


def _extension(name: str) -> str:
    """The file of an extension of DuckDB that was installed as a package: nothing is fetched while a history is opened."""
    found = importlib.util.find_spec(f"duckdb_extension_{name}")
    for folder in found.submodule_search_locations or () if found is not None else ():
        for file in Path(folder).glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension"):
            return str(file)
    if found is not None:
        raise SetupError(
            f"The installed extension {name} of DuckDB is not for DuckDB {duckdb.__version__}.",
            fix="Run: pip install 'agentic-workflows[team]'",
        )
    raise MissingExtra("A team's history", "team")


def _give_logins(con: duckdb.DuckDBPyConnection, place: TeamPlace) -> None:
    """As secrets of this connection: what is attached by its address would be shown by duckdb_databases()."""
    data = place.data
    options = {"KEY_ID": data.key_id, "SECRET": data.secret, "REGION": data.region, "SCOPE": f"{data.url}/"}
    if data.session_token:
        options["SESSION_TOKEN"] = data.session_token
    if data.endpoint:
        options |= {"ENDPOINT": data.endpoint, "URL_STYLE": "path"}
    given = ", ".join(f"{name} {literal(value)}" for name, value in options.items())
    con.execute(f"CREATE SECRET objects (TYPE s3, {given}, USE_SSL {literal(data.use_ssl)})")
    password = driver().extensions.parse_dsn(place.catalogue.dsn).get("password")
    con.execute(f"CREATE SECRET catalogue (TYPE postgres{f', PASSWORD {literal(password)}' if password else ''})")


def _address(place: TeamPlace) -> str:
    """The address as libpq reads it, without the password."""
    parts = {
        name: value
        for name, value in driver().extensions.parse_dsn(place.catalogue.dsn).items()
        if name not in _NOT_FOR_THE_CATALOGUE
    }
    parts |= {"connect_timeout": str(CONNECT_S), "application_name": "workflows"}
    escaped = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in parts.items()}
    return " ".join(f"{name}='{value}'" for name, value in escaped.items())
