"""Where does a Dagster instance keep its runs, events and ticks, by its dagster.yaml?

The file is read as Dagster reads it, and nothing else happens: no instance is made, no folder, no connection.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from dagster_shared.yaml_utils import load_yaml_from_path

from workflows_pkg.errors import SetupError, bounded
from workflows_pkg.security.postgres_url import PostgresUrl

READABLE = "Histories are read from SQLite and PostgreSQL."

_LOGIN = re.compile(r":.*@", re.DOTALL)
_PASSWORD = re.compile(r"""(pass(?:word|wd)?\s*=\s*)('[^']*'?|"[^"]*"?|[^\s&]+)""", re.IGNORECASE)

_PARTS = ("run_storage", "event_log_storage", "schedule_storage")


@dataclass(frozen=True)
class Shards:
    """A folder with one file of events for each run."""

    folder: Path


@dataclass(frozen=True)
class Storage:
    """Where an instance keeps what it knows: SQLite files by their path, or a PostgreSQL database."""

    runs: Path | PostgresUrl
    events: Path | Shards | PostgresUrl
    schedules: Path | PostgresUrl


@contextmanager
def looked_at(place: Path) -> Generator[None]:
    """Where the system refuses to look at `place`, or at a file on the way there, that is a SetupError."""
    try:
        yield
    except OSError as error:
        raise not_looked_at(place, error) from error


def shown(place: object) -> str:
    """What somebody typed, to be quoted in a message: bounded, and without what may be a password, also where it is almost a URL.

    >>> shown("me:geheim@db/dagster"), shown("host=db password='ge heim' user=me"), shown("postgresql//me:a@b@db/dagster")
    ('me:***@db/dagster', 'host=db password=*** user=me', 'postgresql//me:***@db/dagster')
    """
    return bounded(_PASSWORD.sub(r"\1***", _LOGIN.sub(":***@", str(place))), 200)


def not_looked_at(place: Path | str, error: OSError) -> SetupError:
    """What the system refused, as a sentence."""
    refused = error.errno in (errno.EACCES, errno.EPERM)
    return SetupError(
        f"{shown(error.filename or place)} {'may not be read' if refused else 'cannot be looked at'}: {error.strerror}.",
        fix="Ask for the right to read it, or look as the user who runs Dagster." if refused else "Check the path.",
    )


def storage_of(home: Path) -> Storage:
    """By the `dagster.yaml` in `home`, Dagster's default where there is none; raises SetupError for what cannot be read."""
    with looked_at(home):
        return _storage_of(home)


def _storage_of(home: Path) -> Storage:
    file = home / "dagster.yaml"
    settings = _settings(file)
    reader = _Reader(home, file)
    if settings.get("instance_class"):
        raise reader.unsupported(f"instance_class: {_class(settings['instance_class'])}")
    given = settings.get("storage")
    if given:
        return reader.whole(given)
    runs, events, schedules = (settings.get(part) for part in _PARTS)
    return Storage(
        reader.part("run_storage", runs) if runs else home / "history" / "runs.db",
        reader.events(events) if events else Shards(home / "history" / "runs"),
        reader.part("schedule_storage", schedules) if schedules else home / "schedules" / "schedules.db",
    )


def on_postgres(url: PostgresUrl) -> Storage:
    """All three storages in one database."""
    return Storage(url, url, url)


def _settings(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        loaded = load_yaml_from_path(str(file))
    except Exception as error:  # the YAML reader's errors have no common class outside the yaml package
        raise SetupError(f"{file} cannot be read: {bounded(error, 200)}", fix="Mend the file.") from error
    return loaded if isinstance(loaded, dict) else {}


@dataclass(frozen=True)
class _Reader:
    """Reads the settings of one file; errors name it."""

    home: Path
    file: Path

    def whole(self, given: Any) -> Storage:
        """`storage:` with one of its kinds."""
        if not isinstance(given, dict) or len(given) != 1:
            raise self.wrong("storage", "one of sqlite, postgres, mysql or custom", given)
        ((kind, config),) = given.items()
        if kind == "custom":
            name = _class(config)
            kind = {"DagsterSqliteStorage": "sqlite", "DagsterPostgresStorage": "postgres"}.get(name, f"custom: {name}")
            config = config.get("config") if isinstance(config, dict) else None
        if kind == "postgres":
            return on_postgres(self.postgres(f"storage: {kind}", config))
        if kind != "sqlite":
            raise self.unsupported(f"storage: {kind}")
        base = self.base_dir("storage: sqlite", config, self.home)
        return Storage(base / "history" / "runs.db", Shards(base / "history" / "runs"), base / "schedules" / "schedules.db")

    def part(self, part: str, given: Any) -> Path | PostgresUrl:
        """`run_storage:` or `schedule_storage:` of the old form."""
        name, config = _class(given), _config(given)
        if name in ("PostgresRunStorage", "PostgresScheduleStorage"):
            return self.postgres(f"{part}: {name}", config)
        file = {"SqliteRunStorage": "runs.db", "SqliteScheduleStorage": "schedules.db"}.get(name)
        if file is None:
            raise self.unsupported(f"{part}: {name}")
        return self.base_dir(f"{part}: {name}", config) / file

    def events(self, given: Any) -> Path | Shards | PostgresUrl:
        """`event_log_storage:` of the old form."""
        name, config = _class(given), _config(given)
        if name == "PostgresEventLogStorage":
            return self.postgres(f"event_log_storage: {name}", config)
        if name not in ("SqliteEventLogStorage", "ConsolidatedSqliteEventLogStorage"):
            raise self.unsupported(f"event_log_storage: {name}")
        folder = self.base_dir(f"event_log_storage: {name}", config)
        return Shards(folder) if name == "SqliteEventLogStorage" else folder / "event_log.db"

    def base_dir(self, where: str, config: Any, default: Path | None = None) -> Path:
        given = self.value(where, config.get("base_dir", default) if isinstance(config, dict) else default)
        if not isinstance(given, (str, Path)) or not str(given):
            raise self.wrong(f"{where}: base_dir", "a folder", given)
        # Dagster takes a relative folder from where its processes were started, most often the folder of dagster.yaml
        return self.home / given if (self.home / given).exists() else Path(given).absolute()

    def postgres(self, where: str, config: Any) -> PostgresUrl:
        given = self.value(where, config)
        if not isinstance(given, dict) or ("postgres_url" in given) == ("postgres_db" in given):
            raise self.wrong(where, "postgres_url or postgres_db", sorted(given) if isinstance(given, dict) else given)
        if given.get("auth_provider"):
            raise self.unsupported(f"{where} with an auth_provider")
        if "postgres_url" in given:
            return PostgresUrl.of(str(given["postgres_url"]))
        parts = given["postgres_db"]
        if not isinstance(parts, dict) or not parts.get("username") or not parts.get("db_name"):
            raise self.wrong(f"{where}: postgres_db", "username, password, hostname and db_name", sorted(parts or ()))
        password = f":{quote(str(parts['password']), safe='')}" if parts.get("password") else ""
        user = f"{quote(str(parts['username']), safe='')}{password}"
        params = f"?{urlencode(parts['params'], quote_via=quote)}" if parts.get("params") else ""
        address = f"{parts.get('hostname', '')}:{parts.get('port', 5432)}/{quote(str(parts['db_name']), safe='')}"
        return PostgresUrl.of(f"{parts.get('scheme') or 'postgresql'}://{user}@{address}{params}")

    def value(self, where: str, given: Any) -> Any:
        """`given` with what is named as `{env: NAME}` taken from the environment."""
        if not isinstance(given, Mapping):
            return given
        if set(given) == {"env"}:
            name = str(given["env"])
            if not os.environ.get(name):
                raise SetupError(
                    f"{self.file}: {where} is taken from the environment variable {bounded(name)}, which is not set here.",
                    fix=f"Set {bounded(name)} as it is for Dagster, or name the storage by its URL.",
                )
            return os.environ[name]
        return {key: self.value(f"{where}: {key}" if key != "postgres_db" else where, value) for key, value in given.items()}

    def unsupported(self, found: str) -> SetupError:
        return SetupError(f"{self.file}: {READABLE} Found {bounded(found)}.", fix="Name an instance with one of these.")

    def wrong(self, where: str, expected: str, found: object) -> SetupError:
        return SetupError(f"{self.file}: {where}: expected {expected}, found {bounded(found)}.", fix="Mend the file.")


def _class(given: Any) -> str:
    return str(given.get("class", "")) if isinstance(given, dict) else str(given)


def _config(given: Any) -> Any:
    return given.get("config") if isinstance(given, dict) else None
