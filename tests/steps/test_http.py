"""What a web service answers becomes a value, or one clear error with the right cause."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import math
import socket
import ssl
import threading
import time
from email.utils import format_datetime

import pandas as pd
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from workflows_pkg.errors import DataProblem, PeerUnavailable, RateLimited, Refused, StepTimeout
from workflows_pkg.security.allow import Allow
from workflows_pkg.steps.http import Http, exchange, retry_after_s, run


@pytest.fixture
def context(make_context, peer):
    return make_context(allow=Allow(hosts=(peer.host,)))


def test_json_is_sent_and_read(context, peer):
    peer.answer("/", 201, b'{"a": [1, NaN, Infinity], "b": "\xc3\xbc"}', Content_Type="application/json")
    body = {"day": "2013-01-01", "n": math.nan, "word": "ü"}
    assert run(context, Http(url=peer.url(), method="POST", json=body)) == {"a": [1, None, None], "b": "ü"}
    method, _, headers, sent = peer.seen[0]
    assert (method, headers["content-type"]) == ("POST", "application/json")
    assert json.loads(sent) == {"day": "2013-01-01", "n": None, "word": "ü"}


def test_json_null_is_a_body_and_no_json_is_none(context, peer):
    peer.answer("/", 200)
    assert run(context, Http(url=peer.url(), method="PUT", json=None)) is None
    assert run(context, Http(url=peer.url(), method="DELETE")) is None
    assert [seen[3] for seen in peer.seen] == [b"null", b""]


def test_text_bytes_and_head(context, peer):
    peer.answer("/", 200, "grün".encode("latin-1"), Content_Type="text/plain; charset=latin-1")
    assert run(context, Http(url=peer.url(), **{"as": "text"})) == "grün"
    assert run(context, Http(url=peer.url(), **{"as": "bytes"})) == "grün".encode("latin-1")
    assert run(context, Http(url=peer.url(), method="HEAD")) is None
    peer.answer("/", 200, b"\xff\xfe", Content_Type="text/plain")
    with pytest.raises(DataProblem, match="not text in 'utf-8'"):
        run(context, Http(url=peer.url(), **{"as": "text"}))


def test_tables_from_csv_and_from_json_records(context, peer):
    expected = pd.DataFrame({"carrier": ["AA", "UA"], "delay": [1.5, None]})
    peer.answer("/", 200, b"carrier,delay\nAA,1.5\nUA,\n", Content_Type="text/csv")
    pd.testing.assert_frame_equal(run(context, Http(url=peer.url(), **{"as": "table"})), expected)
    peer.answer("/", 200, b' [{"carrier": "AA", "delay": 1.5}, {"carrier": "UA", "delay": NaN}]')
    pd.testing.assert_frame_equal(run(context, Http(url=peer.url(), **{"as": "table"})), expected)
    for body in (b'{"a": 1}', b"[1, 2]", b"[", b"", b'a,b\n"1,2\n3', b"\xff\xfe\xfd,x"):
        peer.answer("/", 200, body)
        with pytest.raises(DataProblem):
            run(context, Http(url=peer.url(), **{"as": "table"}))


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, b"1" * 5000, b"\xff"])
def test_what_is_not_json_is_a_data_problem(context, peer, body):
    peer.answer("/", 200, body)
    with pytest.raises(DataProblem, match="not JSON"):
        run(context, Http(url=peer.url()))


@pytest.mark.parametrize(
    ("status", "error", "cause"),
    [
        (400, DataProblem, "data"),
        (404, DataProblem, "data"),
        (500, PeerUnavailable, "dependency"),
        (503, PeerUnavailable, "dependency"),
    ],
)
def test_unexpected_statuses(make_context, peer, status, error, cause):
    lines: list[str] = []
    peer.answer("/", status, b"no such flight")
    with pytest.raises(error, match=f"answered {status}") as caught:
        run(make_context(lines, allow=Allow(hosts=(peer.host,))), Http(url=peer.url()))
    assert caught.value.cause == cause
    assert "no such flight" not in str(caught.value)
    assert ("no such flight" in " ".join(lines)) == (status < 500)


def test_expect_replaces_what_counts_as_success(context, peer):
    peer.answer("/", 404, b'"none"')
    assert run(context, Http(url=peer.url(), expect=[200, 404])) == "none"
    peer.answer("/", 200, b"1")
    with pytest.raises(DataProblem, match="answered 200, expected 204"):
        run(context, Http(url=peer.url(), expect=[204]))
    peer.answer("/", 302, b"", Location="/elsewhere")
    assert run(context, Http(url=peer.url(), expect=[302])) is None


def test_429_carries_the_wish_of_the_other_side(context, peer):
    peer.answer("/", 429, Retry_After="7")
    with pytest.raises(RateLimited, match="asks for 7 s") as caught:
        run(context, Http(url=peer.url()))
    assert caught.value.retry_after_s == 7
    later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)
    peer.answer("/", 429, Retry_After=format_datetime(later, usegmt=True))
    with pytest.raises(RateLimited) as caught:
        run(context, Http(url=peer.url()))
    assert 55 < caught.value.retry_after_s < 61


def test_calls_and_bytes_are_counted_also_of_redirects_and_failures(make_context, peer):
    counted = []
    context = make_context(allow=Allow(hosts=(peer.host,)), used=lambda figure, count: counted.append((figure, count)))
    peer.answer("/moved", 303, location="/here")
    peer.answer("/here", 200, b"[1]")
    assert run(context, Http(url=peer.url("/moved"), method="POST", json={"a": 1})) == [1]
    assert counted == [("calls", 2), ("moved_bytes", len(b'{"a": 1}') + len(b"[1]"))]
    counted.clear()
    peer.answer("/away", 503, b"sorry")
    with pytest.raises(PeerUnavailable):
        run(context, Http(url=peer.url("/away")))
    assert counted == [("calls", 1), ("moved_bytes", 5)]
    counted.clear()
    with pytest.raises(Refused):
        run(context, Http(url="http://127.0.0.2:1/"))
    assert counted == [("calls", 0), ("moved_bytes", 0)]


def test_forms_of_retry_after():
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert retry_after_s("Thu, 01 Jan 2026 00:00:30 GMT", now) == 30
    assert retry_after_s("Wed, 31 Dec 2025 23:00:00 GMT", now) == 0
    assert [retry_after_s(text, now) for text in (None, "soon", "-5", "1.5", "", "9" * 400, "²")] == [None] * 7


def slow(handler, parts, pause):
    for part in parts:
        try:
            handler.wfile.write(part)
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(pause)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"HTTP/1.1 200 OK\r\n"] + [b"X-A: b\r\n"] * 200,  # a header line now and then, for ever
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"] + [b"a"] * 200,  # a byte now and then
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"] + [b"a"] * 200,
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] + [b"1\r\na\r\n"] * 200,
    ],
)
def test_the_timeout_bounds_the_whole_exchange(context, peer, parts):
    done = threading.Event()

    def handle(handler):
        slow(handler, parts[:40], 0.02)
        done.wait(2)

    peer.routes["/"] = handle
    started = time.monotonic()
    with pytest.raises(StepTimeout, match="within 300ms") as caught:
        run(context, Http(url=peer.url(), timeout="300ms", **{"as": "bytes"}))
    assert time.monotonic() - started < 0.7
    assert caught.value.cause == "timeout"
    done.set()


def test_the_attempt_s_own_limit_counts_too_and_a_stop_ends_it(make_context, peer):
    done = threading.Event()
    peer.routes["/"] = lambda handler: done.wait(3)
    allow = Allow(hosts=(peer.host,))
    started = time.monotonic()
    with pytest.raises(StepTimeout, match="within 200ms"):
        run(make_context(allow=allow, timeout_s=0.2), Http(url=peer.url()))
    stops = []
    context = make_context(allow=allow, on_stop=stops.append)
    threading.Timer(0.2, lambda: stops[0]()).start()
    with pytest.raises(StepTimeout):
        run(context, Http(url=peer.url()))
    assert time.monotonic() - started < 1.5
    done.set()


def test_a_name_lookup_that_hangs_is_bounded(make_context):
    done = threading.Event()

    def hang(host, port):
        done.wait(5)
        return []

    started = time.monotonic()
    with pytest.raises(StepTimeout):
        exchange(make_context(), Http(url="http://slow.example/", timeout="200ms"), hang)
    assert time.monotonic() - started < 1
    done.set()


def test_too_large_answers_stop_early(context, peer):
    sent = [0]

    def endless(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        try:
            for _ in range(3000):
                handler.wfile.write(b"x" * 65536)
                sent[0] += 65536
        except OSError:
            return

    peer.routes["/"] = endless
    with pytest.raises(DataProblem, match="more than 1000000 bytes"):
        run(context, Http(url=peer.url(), max_bytes=1_000_000, **{"as": "bytes"}))
    assert sent[0] < 60_000_000
    peer.answer("/", 200, b"x" * 11)
    with pytest.raises(DataProblem, match="more than 10 bytes"):
        run(context, Http(url=peer.url(), max_bytes=10, **{"as": "bytes"}))
    assert run(context, Http(url=peer.url(), max_bytes=11, **{"as": "bytes"})) == b"x" * 11


def test_broken_connections_are_the_peer_s_fault(make_context, context, peer):
    def half(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    for handle in (half, lambda handler: None, lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")):
        peer.routes["/"] = handle
        with pytest.raises(PeerUnavailable, match="broke off"):
            run(context, Http(url=peer.url()))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(PeerUnavailable, match="connection refused"):
        run(make_context(allow=Allow(hosts=(f"127.0.0.1:{port}",))), Http(url=f"http://127.0.0.1:{port}/"))


def test_the_next_address_is_tried_when_the_first_refuses(make_context, peer):
    peer.answer("/", 200, b"1")
    context = make_context(allow=Allow(hosts=(f"two.example:{peer.port}",)))
    url = f"http://two.example:{peer.port}/"
    assert exchange(context, Http(url=url), lambda host, port: ["127.0.0.2", "127.0.0.1"]) == 1
    assert peer.seen[0][2]["host"] == f"two.example:{peer.port}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "b\r\nX-Evil: 1"),
        ("X-A", "b\nX-Evil: 1"),
        ("X-A", "b\r\n folded"),
        ("X-A", "b\r\n\r\nGET / HTTP/1.1"),
        ("X-A", "b\x00"),
        ("X-A", "b\u010a"),
        ("X-A\r\nX-Evil", "1"),
        ("X-A: 1\nB", "1"),
        ("", "1"),
        ("X A", "1"),
        ("Host", "internal"),
        ("content-length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "X-A"),
        ("Proxy-Authorization", "x"),
    ],
)
def test_headers_cannot_make_one_request_look_like_two(context, peer, name, value):
    with pytest.raises(ValidationError) as caught:
        Http(url=peer.url(), headers={name: value})
    assert "X-Evil: 1" not in str(caught.value)
    with pytest.raises(Refused):  # also where a value arrives without validation
        run(context, Http(url=peer.url()).model_copy(update={"headers": {name: value}}))
    assert peer.connections == 0


def test_an_answer_compressed_all_the_same_is_named(context, peer):
    peer.answer("/", 200, b"\x1f\x8b", Content_Encoding="gzip")
    with pytest.raises(DataProblem, match="compressed"):
        run(context, Http(url=peer.url()))
    assert peer.seen[0][2]["accept-encoding"] == "identity"


@pytest.fixture
def tls_port(tmp_path, monkeypatch):
    """A TLS server on loopback with a certificate for good.example, whose issuer is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "good.example")])
    now = dt.datetime.now(dt.UTC)
    subjects = x509.SubjectAlternativeName([x509.DNSName("good.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.9"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(subjects, False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "both.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    done = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.05)

    def serve():
        while not done.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(4000)
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    done.set()
    thread.join()
    server.close()


def test_certificates_are_verified_for_the_name_while_the_address_is_the_checked_one(make_context, tls_port, monkeypatch):
    def to_loopback(host, port):
        return ["127.0.0.1"]

    def fetch(host):
        context = make_context(allow=Allow(hosts=(f"{host}:{tls_port}",)))
        return exchange(context, Http(url=f"https://{host}:{tls_port}/"), to_loopback)

    assert fetch("good.example") == 1
    with pytest.raises(PeerUnavailable, match=r"certificate of bad.example.* cannot be trusted"):
        fetch("bad.example")
    with pytest.raises(PeerUnavailable, match="cannot be trusted"):
        fetch("127.0.0.1")
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(PeerUnavailable, match="cannot be trusted"):
        fetch("good.example")


def test_a_tls_handshake_that_hangs_is_bounded(make_context):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(StepTimeout):
            run(make_context(allow=Allow(hosts=(host,))), Http(url=f"https://{host}/", timeout="200ms"))
        assert time.monotonic() - started < 1
