"""A team's history on a real PostgreSQL and a real S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.servers import KEY, S3, SECRET, postgres, s3

_NUMBERS = count()


@dataclass(frozen=True)
class Servers:
    postgres: str
    s3: S3

    def sql(self, text: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(host=self.postgres, user="postgres", dbname=database)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(text)
                return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    name = tmp_path_factory.mktemp("team").parent.name
    with postgres(Path("/tmp") / f"pg-team-{name}-{next(_NUMBERS)}") as host, s3(tmp_path_factory.mktemp("s3")) as objects:
        yield Servers(host, objects)


@dataclass(frozen=True)
class Team:
    """One team's history, empty at first; `setting` is the value of WORKFLOWS_HISTORY."""

    servers: Servers
    database: str
    setting: str

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        return self.servers.sql(text, self.database)


@pytest.fixture
def team(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Team:
    name = f"team_{next(_NUMBERS)}"
    servers.sql(f"create database {name}")
    setting = f"postgresql://postgres@/{name}?host={servers.postgres}&data=s3://kept/{name}"
    for variable, value in {
        "WORKFLOWS_HISTORY": setting,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://{servers.s3.address}",
    }.items():
        monkeypatch.setenv(variable, value)
    return Team(servers, name, setting)
