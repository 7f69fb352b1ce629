"""How does one request travel? To one checked address, before a deadline, up to a size.

The standard library's client is used because it lets the connection be made here: to the address that was checked,
with the certificate verified for the name that was asked for, and through no proxy of the environment, which would
resolve the name a second time.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse

from workflows_pkg.errors import DataProblem, PeerUnavailable, bounded
from workflows_pkg.security.addresses import Destination

CHUNK = 64 * 1024
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Request:
    """One request, without where it goes."""

    method: str
    headers: Mapping[str, str]
    body: bytes | None
    max_bytes: int


@dataclass(frozen=True)
class Answer:
    """What came back; `body` is complete. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Traffic:
    """What an exchange came to, also where it failed: requests that were sent, and bytes of bodies sent and received."""

    calls = 0
    moved_bytes = 0


class Cutoff:
    """Ends an exchange at its deadline, whatever it is waiting for: a timer shuts the current socket down.

    Socket timeouts alone bound each wait, not their sum: a server that sends a byte a second would hold a step for ever.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self.passed = False
        self._timer = threading.Timer(max(0.0, deadline - time.monotonic()), self.cut)
        self._timer.daemon = True
        self._timer.start()

    def remaining_s(self) -> float:
        """Seconds left; raises TimeoutError where none are."""
        left = self._deadline - time.monotonic()
        if self.passed or left <= 0:
            self.passed = True
            raise TimeoutError("the time is up")
        return left

    def watch(self, connected: socket.socket) -> None:
        """Shut `connected` down at the deadline."""
        with self._lock:
            self._socket = connected
        self.remaining_s()

    def cut(self) -> None:
        """End the exchange now."""
        with self._lock:
            self.passed = True
            if self._socket is not None:
                with suppress(OSError):
                    # The plain socket's own method: that of a TLS socket would first try to say goodbye.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def done(self) -> None:
        """Nothing is left to end."""
        self._timer.cancel()
        with self._lock:
            self._socket = None


class _Connection(HTTPConnection):
    """A connection to one checked address."""

    def __init__(self, destination: Destination, address: str, cutoff: Cutoff) -> None:
        super().__init__(destination.host, destination.port)
        self._destination = destination
        self._address = address
        self._cutoff = cutoff

    def connect(self) -> None:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._cutoff.watch(plain)
            plain.settimeout(self._cutoff.remaining_s())
            plain.connect((self._address, self._destination.port))
            if self._destination.scheme == "https":
                # Without the handshake, so that the cutoff can end it: wrapping empties the plain socket.
                secure = ssl.create_default_context().wrap_socket(
                    plain, server_hostname=self._destination.host.rstrip("."), do_handshake_on_connect=False
                )
                plain = secure
                self._cutoff.watch(secure)
                secure.do_handshake()
        except BaseException:
            plain.close()
            raise
        self.sock = plain


def send(destination: Destination, request: Request, cutoff: Cutoff, traffic: Traffic) -> Answer:
    """The answer of the first address that accepts a connection; what it took is added to `traffic`.

    Raises TimeoutError at the deadline, PeerUnavailable where the peer cannot be reached, is not who it should be, or
    breaks off, DataProblem where it sends more than the request allows.
    """
    connection = _connected(destination, cutoff)
    try:
        return _answer(connection, destination, request, cutoff, traffic)
    except (OSError, HTTPException) as error:
        if cutoff.passed or isinstance(error, TimeoutError):
            cutoff.passed = True
            raise
        # The text of an HTTPException quotes what the peer sent, which may be what it was sent.
        cause = error if isinstance(error, OSError) else None
        raise PeerUnavailable(f"{destination.peer} broke off: {_reason(error)}.", fix="Try again later.") from cause
    finally:
        connection.close()


def _connected(destination: Destination, cutoff: Cutoff) -> _Connection:
    problem: OSError | None = None
    for address in destination.addresses:
        connection = _Connection(destination, address, cutoff)
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise PeerUnavailable(
                f"The certificate of {destination.peer} cannot be trusted: {bounded(error.verify_message, 120)}.",
                fix="For an authority of your own set SSL_CERT_FILE where the code location runs.",
            ) from error
        except OSError as error:
            if cutoff.passed or isinstance(error, TimeoutError):
                cutoff.passed = True
                raise
            problem = error
        else:
            return connection
    raise PeerUnavailable(f"{destination.peer} cannot be reached: {_reason(problem)}.", fix="Try again later.") from problem


def _answer(connection: _Connection, destination: Destination, request: Request, cutoff: Cutoff, traffic: Traffic) -> Answer:
    traffic.calls += 1
    connection.putrequest(request.method, destination.target, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", destination.peer)
    connection.putheader("Accept-Encoding", "identity")
    connection.putheader("Connection", "close")
    for name, value in request.headers.items():
        connection.putheader(name, value.encode("latin-1"))
    if request.body is not None or request.method in ("POST", "PUT"):
        connection.putheader("Content-Length", str(len(request.body or b"")))
    connection.endheaders(request.body)
    traffic.moved_bytes += len(request.body or b"")
    # Closed here: with "Connection: close" the response owns the socket, and the connection no longer knows it.
    with connection.getresponse() as response:
        headers = {name.lower(): value for name, value in response.getheaders()}
        # The body of a redirect is not looked at, so it is not fetched either.
        body = (
            b""
            if response.status in REDIRECTS and "location" in headers
            else _body(response, destination, request, cutoff, traffic)
        )
        return Answer(response.status, headers, body)


def _body(response: HTTPResponse, destination: Destination, request: Request, cutoff: Cutoff, traffic: Traffic) -> bytes:
    """The whole body; stops at the first byte too many, or before the first where the length is announced."""
    too_large = DataProblem(
        f"{destination.peer} sends more than {request.max_bytes} bytes.", fix="Ask for less, or raise max_bytes."
    )
    if request.method != "HEAD" and response.length is not None and response.length > request.max_bytes:
        raise too_large
    parts: list[bytes] = []
    size = 0
    while part := response.read1(CHUNK):
        size += len(part)
        traffic.moved_bytes += len(part)
        if size > request.max_bytes:
            raise too_large
        parts.append(part)
        cutoff.remaining_s()
    # A socket that was shut down at the deadline looks like the end of the body.
    cutoff.remaining_s()
    if response.length:
        raise PeerUnavailable(f"{destination.peer} broke off: {response.length} bytes are missing.", fix="Try again later.")
    return b"".join(parts)


def _reason(error: BaseException | None) -> str:
    """The kind of a connection error; its text may repeat what was sent."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower() if not isinstance(error, ssl.SSLError) else "the TLS handshake failed"
    return type(error).__name__
