"""A secret used in a step is in no error, no log line, no file and no output, in any of its usual forms."""

from __future__ import annotations

import base64
import logging
import socket
from urllib.parse import quote

import pytest

from workflows_pkg.errors import WorkflowsError
from workflows_pkg.security.allow import Allow
from workflows_pkg.security.secrets import Secrets
from workflows_pkg.steps.communication.notify import NOTIFY
from workflows_pkg.steps.http import HTTP

CANARY = "cAnAry/9d+f3?71&b0"
FORMS = [
    CANARY,
    quote(CANARY),
    quote(CANARY, safe=""),
    CANARY.encode().hex(),
    base64.b64encode(CANARY.encode()).decode().rstrip("="),
    *(base64.b64encode(b"\0" * n + CANARY.encode()).decode()[4:-4] for n in range(3)),
    CANARY[::-1],
]


def found_in(text: str) -> list[str]:
    return [form for form in FORMS if form in text]


def chain(error: BaseException | None) -> str:
    """All that a traceback shows of an error and of what caused it."""
    texts = []
    while error is not None:
        texts.append(f"{error!r} {error} {getattr(error, 'fix', '')}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return " ".join(texts)


def uses(host: str, closed: str):
    """Requests with the secret in each place, to answers of each kind; basic is a header as a client would make it."""
    basic = "Basic " + base64.b64encode(f"user:{CANARY}".encode()).decode()
    for path in ("/ok", "/bad", "/down", "/slowdown", "/echo", "/text", "/nowhere-redirect", "/cut"):
        yield HTTP, {"url": f"http://{host}{path}", "headers": {"Authorization": f"Bearer {CANARY}", "X-Basic": basic}}
        yield HTTP, {"url": f"http://{host}{path}?key={quote(CANARY, safe='')}", "query": {"token": CANARY}}
        yield HTTP, {"url": f"http://{host}{path}", "method": "POST", "json": {"password": CANARY}}
    yield HTTP, {"url": f"http://{closed}/{CANARY}", "headers": {"Authorization": CANARY}}
    yield HTTP, {"url": f"http://user:{CANARY}@{host}/ok"}
    yield HTTP, {"url": f"http://{CANARY}/"}
    yield HTTP, {"url": f"gopher://{host}/{CANARY}"}
    yield HTTP, {"url": f"http://{host}/ok", "headers": {"Authorization": f"{CANARY}\r\nX: 1"}}
    yield HTTP, {"url": f"http://{host}/ok", "headers": {"Authorization": f"{CANARY}\u4e2d"}}
    yield HTTP, {"url": f"http://{host}/ok", "timeout": CANARY, "unknown": CANARY}
    for address in (
        f"json://{host}/ok/{CANARY}",
        f"json://{host}/down?key={CANARY}",
        f"json://{closed}/{CANARY}",
        f"nosuch://{CANARY}",
    ):
        yield NOTIFY, {"to": address, "text": "x"}
    yield NOTIFY, {"to": f"json://{host}/{CANARY}", "text": ""}


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_a_secret_leaves_no_trace(make_context, peer, tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    peer.answer("/ok", 200, b"{}")
    peer.answer("/bad", 400, f"bad token {CANARY}".encode())
    peer.answer("/down", 500, CANARY.encode())
    peer.answer("/slowdown", 429, b"", Retry_After=quote(CANARY))
    peer.answer("/echo", 404, base64.b64encode(f"user:{CANARY}".encode()))
    peer.answer("/text", 200, CANARY.encode())
    peer.answer("/nowhere-redirect", 302, b"", Location=f"http://10.0.0.1/{quote(CANARY)}")
    peer.routes["/cut"] = lambda handler: handler.wfile.write(f"{CANARY}\r\n".encode())
    peer.answer(f"/ok/{CANARY.split('?')[0]}", 404)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    secrets = Secrets(["token"], environ={"WORKFLOWS_SECRET_TOKEN": CANARY})
    lines: list[str] = []
    raw: list[str] = []

    def log(line: str) -> None:
        raw.append(line)
        lines.append(secrets.mask(line))

    context = make_context(allow=Allow(hosts=(peer.host, closed)), secret=secrets.value, log=log)
    runs = 0
    shown: list[tuple[dict[str, str], str]] = []
    for kind, given in uses(peer.host, closed):
        runs += 1
        try:
            params = kind.params.model_validate(given)
        except ValueError as error:
            shown.append((given, str(error)))
            continue
        try:
            kind.run(context, params)
        except WorkflowsError as error:
            shown.append((given, chain(error)))
    assert runs > 30
    assert len(shown) > 20
    assert [given for given, text in shown if found_in(text)] == []
    assert found_in(" ".join(lines)) == []
    assert found_in(" ".join(raw)) != [], "the control: unmasked lines do hold what the server sent back"
    assert found_in(caplog.text + "".join(capfd.readouterr())) == []
    assert list(tmp_path.rglob("*")) == []
