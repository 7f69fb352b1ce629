"""Step kinds for the tests of the spec: small models that stand for what plugins bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator


@dataclass(frozen=True)
class Code:
    """Marks a parameter whose text is code, as plugins do; the loader knows it by `instead`."""

    instead: str


@dataclass(frozen=True)
class Private:
    """Marks a parameter that may hold a secret, as plugins do; the loader knows it by `takes_secret`."""

    takes_secret: bool = True


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Sql(Params):
    query: Annotated[str, Code("bind values under params and write $name in the query")] = Field(description="SQL text.")
    params: dict[str, Any] = Field({}, description="Values bound in the query, by name.")
    limit: int | None = Field(None, ge=1, description="Most rows.")
    columns: tuple[str, ...] = Field((), description="Columns that are kept.")
    explain: bool = Field(False, description="Log the query plan.")


class ReadTable(Params):
    source: str = Field(description="Name of a table, or a file below the data folder.")
    where: dict[str, Any] = Field({}, description="Column -> value of the rows that are kept.")


class Call(Params):
    call: Annotated[str, Code("pass values under arguments")] = Field(description="module:function")
    arguments: Annotated[dict[str, Any], Private()] = Field({}, description="Keyword arguments.")


class Header(Params):
    name: str
    value: str


class Http(Params):
    url: Annotated[str, Private()] = Field(description="https address.")
    headers: Annotated[list[Header], Private()] = Field([], description="Headers.")
    expect: int | list[int] = Field(200, description="Status codes that are taken for success.")

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("expected an address that begins with http:// or https://")
        return url


@dataclass(frozen=True)
class Secret:
    """Marks a parameter that must be a secret, as plugins do; the loader knows it by `secret_only`."""

    secret_only: bool = True


class Notify(Params):
    to: Annotated[str, Secret()] = Field(description="Address of the receiver.")
    text: str = Field(description="What is said.")


@pytest.fixture(scope="session")
def kinds() -> Mapping[str, type[BaseModel]]:
    return {
        "data.sql": Sql,
        "data.read_table": ReadTable,
        "python": Call,
        "http": Http,
        "communication.notify": Notify,
    }
