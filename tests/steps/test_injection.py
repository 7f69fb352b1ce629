"""No text in a parameter is ever run: not as SQL, shell, template, path, header, YAML or markup, whatever the parameter."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pandas as pd
import pytest
from pydantic import ValidationError

from workflows_pkg.errors import SetupError, StepError
from workflows_pkg.security.allow import Allow
from workflows_pkg.steps.discovery import BUILT_IN

KINDS = {kind.name: kind for kind in BUILT_IN}
# {f} becomes the path of a file that must not come into being
PAYLOADS = [
    "'; drop table keep; --",
    '"; drop table keep; --',
    "x' or '1'='1",
    "1); delete from keep; --",
    "' union select * from keep --",
    "'; copy (select 1) to '{f}'; --",
    "'; attach '{f}'; --",
    "\\'; drop table keep; --",
    "$$; drop table keep; $$",
    "' || (select 7*7) || '",
    '") from keep; drop table keep; select ("',
    "; touch {f}",
    "| touch {f}",
    "&& touch {f}",
    "$(touch {f})",
    "`touch {f}`",
    "\ntouch {f}\n",
    "-o{f}",
    "> {f}",
    "{{7*7}}",
    "{{{{7*7}}}}",
    "${{{{ 7*7 }}}}",
    "{{% import os %}}{{{{ os.system('touch {f}') }}}}",
    "{{0.__class__.__mro__}}",
    "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}",
    "%(x)s%s%n",
    "${{jndi:ldap://127.0.0.1/a}}",
    "<%= 7*7 %>",
    "__import__('os').system('touch {f}')",
    "os:system",
    "builtins:exec",
    "../../../../../../..{f}",
    "{f}",
    "file://{f}",
    "~/{f}",
    "..\\..\\x",
    "/proc/self/environ",
    "a\0b",
    "!!python/object/apply:os.system ['touch {f}']",
    "&a [*a, *a]",
    "<<: *x",
    "x\r\nX-Evil: 1",
    "x\r\n\r\nGET /evil HTTP/1.1\r\nHost: x",
    "x%0d%0aX-Evil: 1",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "=cmd|'/c touch {f}'!A1",
    "\u202ereversed",
    "file://{f}, json://127.0.0.1:1/",
]


def places(payload: str, host: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every parameter that takes text, with the payload in it."""
    yield "python", {"call": payload}
    yield "python", {"call": "tests_of_nothing:echo", "args": {payload: payload}}
    yield "data.sql", {"query": payload}
    yield "data.sql", {"query": "select $x as x", "params": {"x": payload}}
    yield "data.sql", {"query": "select 1", "params": {payload: 1}}
    yield "data.sql", {"query": "select 1", "memory_limit": payload}
    yield "data.read_table", {"source": payload}
    yield "data.read_table", {"source": payload + ".csv"}
    yield "data.read_table", {"source": "keep.duckdb", "table": payload}
    yield "data.read_table", {"source": "t.csv", "columns": [payload]}
    yield "data.read_table", {"source": "t.csv", "where": {payload: 1}}
    yield "data.read_table", {"source": "t.csv", "where": {"a": payload}}
    yield "data.write_table", {"database": payload, "table": "t"}
    yield "data.write_table", {"database": "keep.duckdb", "table": payload}
    yield "data.write_table", {"database": "keep.duckdb", "table": "t", "from": payload}
    yield "data.write_table", {"database": "keep.duckdb", "table": "t", "replace_where": {payload: payload}}
    yield "data.write_table", {"database": "keep.duckdb", "table": "t", "replace_where": {"a": payload}}
    yield "http", {"url": payload}
    yield "http", {"url": f"http://{host}/{payload}"}
    yield "http", {"url": f"http://{payload}@{host}/"}
    yield "http", {"url": f"http://{host}/", "method": payload}
    yield "http", {"url": f"http://{host}/", "headers": {"X-A": payload}}
    yield "http", {"url": f"http://{host}/", "headers": {payload: "x"}}
    yield "http", {"url": f"http://{host}/", "query": {payload: payload}}
    yield "http", {"url": f"http://{host}/", "method": "POST", "json": {payload: payload}}
    yield "communication.notify", {"to": f"json://{host}/", "text": payload, "title": payload[:200]}


class Watch:
    def __init__(self) -> None:
        self.on = False
        self.processes: list[str] = []


WATCH = Watch()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if WATCH.on and event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn"):
        WATCH.processes.append(event)


@pytest.fixture(scope="module", autouse=True)
def _audit_hook() -> None:
    sys.addaudithook(_audit)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("payloads", [PAYLOADS[::3], pytest.param(PAYLOADS, marks=pytest.mark.long)], ids=["some", "all"])
def test_no_payload_is_run_anywhere(payloads, make_context: Callable[..., Any], peer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    (data / "t.csv").write_text("a\nkept\n")
    keep = duckdb.connect(str(data / "keep.duckdb"))
    keep.execute("create table keep as select 'kept' as a")
    keep.close()
    peer.routes = AnyPath(peer)
    context = make_context(
        inputs={"x": pd.DataFrame({"a": ["kept"]})},
        allow=Allow(files=data, hosts=(peer.host,), modules=("tests_of_nothing",), tables={"flights": "t.csv"}),
    )
    sentinel = tmp_path / "sentinel"
    tried = 0
    WATCH.on = True
    try:
        for written in payloads:
            payload = written.replace("{f}", str(sentinel)).replace("{{", "{").replace("}}", "}")
            for name, given in places(payload, peer.host):
                tried += 1
                try:
                    value = KINDS[name].run(context, KINDS[name].params.model_validate(given))
                except (StepError, SetupError, ValidationError):
                    continue
                if name == "data.sql":
                    assert value["x"].tolist() == [payload], given
    finally:
        WATCH.on = False
    assert tried >= 400
    assert WATCH.processes == []
    # folders named like a payload may have been made for a database, but only below the data folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert not sentinel.exists()
    keep = duckdb.connect(str(data / "keep.duckdb"), read_only=True)
    assert keep.execute("from keep").fetchall() == [("kept",)]
    keep.close()
    assert (data / "t.csv").read_text() == "a\nkept\n"
    for _, path, headers, body in peer.seen:
        assert "x-evil" not in headers
        assert path != "/evil"
        assert b"49" not in body.replace(str(peer.port).encode(), b"")


class AnyPath(dict):  # type: ignore[type-arg]
    """Answers every path of a peer with an empty object."""

    def __init__(self, peer) -> None:
        super().__init__()
        peer.answer("/", 200, b"{}")
        self.update(peer.routes)

    def __missing__(self, key: str):
        return self["/"]


def test_the_same_payloads_do_run_where_text_is_put_together(tmp_path, monkeypatch):
    """The control: text pasted into SQL drops the table, text given to a shell makes the file, and both are seen."""
    monkeypatch.chdir(tmp_path)
    connection = duckdb.connect()
    connection.execute("create table keep as select 1 as a")
    connection.execute(f"select '{PAYLOADS[0]}'")
    with pytest.raises(duckdb.CatalogException):
        connection.execute("from keep")
    connection.close()
    WATCH.on = True
    os.system("true " + PAYLOADS[11].replace("{f}", str(tmp_path / "sentinel")))  # noqa: S605 - the control
    WATCH.on = False
    assert (tmp_path / "sentinel").exists()
    assert WATCH.processes == ["os.system"]
    WATCH.processes.clear()
