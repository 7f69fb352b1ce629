"""Where is the team's history? One setting says it, on every machine that writes or reads it.

    WORKFLOWS_HISTORY=postgresql://workflows@db.example.org/history?data=s3://bucket/folder

The logins are where every tool looks for them: PGPASSWORD or ~/.pgpass, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

from workflows_pkg.errors import SetupError, bounded
from workflows_pkg.security.postgres_url import PostgresUrl

VARIABLE = "WORKFLOWS_HISTORY"

_FORM = "Write WORKFLOWS_HISTORY=postgresql://user@host/database?data=s3://bucket/folder"


_private = ContextVar("private", default=False)


@dataclass(frozen=True)
class ObjectStore:
    """A folder in a bucket, as `bucket/folder`, and how its server is asked; the login is shown nowhere."""

    folder: str
    endpoint: str
    use_ssl: bool
    region: str
    key_id: str = field(repr=False)
    secret: str = field(repr=False)
    session_token: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"s3://{self.folder}"


@dataclass(frozen=True)
class TeamPlace:
    """One team history: the catalogue and small changes in a PostgreSQL database, the rest in a bucket."""

    catalogue: PostgresUrl
    data: ObjectStore

    @property
    def shown(self) -> str:
        """For messages: no login."""
        return f"postgresql://{self.catalogue.place} with {self.data.url}"


@contextmanager
def not_shared() -> Generator[None]:
    """For the block histories are what their folders hold, whatever the environment says: private ones, and those named to be judged."""
    before = _private.set(True)
    try:
        yield
    finally:
        _private.reset(before)


def team_place() -> TeamPlace | None:
    """What the environment says; None where history is this machine's own. Raises SetupError for a setting that is neither."""
    given = "" if _private.get() else os.environ.get(VARIABLE, "").strip()
    if not given:
        return None
    url, _, asked = given.partition("?")
    parameters = parse_qsl(asked, keep_blank_values=True)
    found = [value for name, value in parameters if name == "data"]
    if len(found) != 1:
        raise SetupError(f"{VARIABLE} does not say where the data are: expected data=s3://… once behind '?'.", fix=f"{_FORM}.")
    rest = urlencode([(name, value) for name, value in parameters if name != "data"], safe="/:,")
    try:
        catalogue = PostgresUrl.of(f"{url}?{rest}" if rest else url)
    except SetupError as error:
        raise SetupError(f"{VARIABLE}: {error.message}", fix=f"{_FORM}.") from None
    return TeamPlace(catalogue, _object_store(found[0]))


def _object_store(url: str) -> ObjectStore:
    kind, _, folder = url.partition("://")
    folder = folder.rstrip("/")
    bucket, _, inside = folder.partition("/")
    if kind != "s3" or not bucket or not inside or set(folder) & set("@?*[]'#\"\\") or ".." in inside.split("/"):
        raise SetupError(
            f"{VARIABLE}: expected data=s3://bucket/folder of plain letters, found one of kind '{bounded(kind, 20)}'.",
            fix=f"{_FORM}, and put the login into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    server = urlsplit(named)
    if named and (server.scheme not in ("http", "https") or not server.hostname or "@" in server.netloc):
        raise SetupError("AWS_ENDPOINT_URL is no address of a server.", fix="Write it like https://s3.example.org:9000.")
    return ObjectStore(
        folder,
        endpoint=server.netloc,
        use_ssl=server.scheme != "http",
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        key_id=os.environ.get("AWS_ACCESS_KEY_ID", ""),
        secret=os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        session_token=os.environ.get("AWS_SESSION_TOKEN", ""),
    )
