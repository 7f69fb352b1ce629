"""Where is a PostgreSQL database, and what of its URL may be shown? Never the password, however it is spelled."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlsplit

from workflows_pkg.errors import SetupError, bounded

_SCHEMES = ("postgresql", "postgres")

_URL = re.compile(r"^(?P<user>[^:/@?]*)(?::(?P<password>.*?))?@(?P<tail>[^@?]*(?:\?.*)?)$", re.DOTALL)
"""What follows `://`. A password may hold `/`, `@` and `#` as they are: SQLAlchemy takes some of them so, libpq none."""

_HOST = re.compile(r"^(\[[^\]]*\]|[^:\[\]]*)(:\d*)?$")


@dataclass(frozen=True)
class PostgresUrl:
    """Where a PostgreSQL database is. `dsn` may hold a password and is shown nowhere; `place` is host, port and database."""

    dsn: str = field(repr=False)
    place: str
    secrets: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, url: str) -> PostgresUrl:
        """By a URL as SQLAlchemy or libpq write it, with or without the name of a driver; raises SetupError for another kind."""
        scheme, _, rest = url.strip().partition("://")
        if scheme.split("+")[0].lower() not in _SCHEMES:
            raise SetupError(
                f"Expected a PostgreSQL URL, found one of kind '{bounded(scheme, 30)}'.",
                fix="Write postgresql://user:password@host:5432/database.",
            )
        found = _URL.match(rest)
        user, password, tail = (found["user"], found["password"], found["tail"]) if found else (None, None, rest)
        parts = urlsplit(f"postgresql://{tail}")
        asked = parse_qs(parts.query)
        if not all(_HOST.match(host) for host in parts.netloc.split(",")):  # without its '@' a login looks like a host
            raise SetupError(
                "That URL is no address of a PostgreSQL database: between '://' and '/' expected a host and perhaps a port.",
                fix="Write postgresql://user:password@host:5432/database.",
            )
        host = parts.netloc or ",".join(asked.get("host", [])) or "localhost"
        port = "" if ":" in host.rpartition("]")[2] else f":{asked.get('port', ['5432'])[0]}"
        database = unquote(parts.path.lstrip("/")) or asked.get("dbname", [""])[0]
        login = "" if user is None else user if password is None else f"{user}:{quote(password, safe='%')}"
        dsn = f"postgresql://{login}{'' if user is None else '@'}{tail}"
        return cls(dsn, f"{unquote(host)}{port}/{database}", tuple({password, unquote(password)} if password else ()))

    def without_secrets(self, text: str) -> str:
        """`text` without the password, however it is spelled there."""
        given = (*self.secrets, *parse_qs(urlsplit(self.dsn).query).get("password", []))
        for secret in sorted(given, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text
