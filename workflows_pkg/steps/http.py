"""How does a workflow call a web service? One request to a checked address; redirects are checked like the first."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from io import BytesIO
from typing import Annotated, Any, Literal
from urllib.parse import urljoin

import pandas as pd
from pydantic import Field, field_validator

from workflows_pkg.errors import DataProblem, PeerUnavailable, RateLimited, Refused, StepTimeout, bounded
from workflows_pkg.security.addresses import Destination, Resolver, check_url, system_resolver
from workflows_pkg.spec.durations import Duration, format_duration
from workflows_pkg.steps.contract import Parameters, StepContext, StepKind, StepValue, TakesSecret
from workflows_pkg.steps.transport import REDIRECTS, Answer, Cutoff, Request, Traffic, send
from workflows_pkg.steps.values import as_table, is_tabular, plain_json

MOSTREDIRECTS = 5
_KEPT_ABROAD = frozenset({"accept", "accept-language", "user-agent"})
"""Headers that a redirect to another host still gets; any other may hold a credential."""
_OWN_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "accept-encoding",
        "keep-alive",
    }
)
"""Headers that frame the message; whoever sets them can make one request look like two."""
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


class Http(Parameters):
    """Parameters of the step kind `http`."""

    url: Annotated[str, TakesSecret()] = Field(
        description="Address, with http or https. Private hosts need a grant of the code location.", max_length=4000
    )
    method: Literal["GET", "POST", "PUT", "DELETE", "HEAD"] = Field("GET", description="Request method.")
    headers: Annotated[dict[str, str], TakesSecret()] = Field(
        default_factory=dict, description="Request headers; credentials come from secrets."
    )
    query: Annotated[dict[str, str | int | float | bool], TakesSecret()] = Field(
        default_factory=dict, description="Parameters added to the URL."
    )
    json_: Annotated[Any, TakesSecret()] = Field(None, alias="json", description="Body, sent as JSON.")
    timeout: Duration = Field(timedelta(seconds=30), description="Longest time from the name lookup to the last byte.")
    expect: list[int] | None = Field(None, description="Status codes that are a success; left out: 200 to 299.", min_length=1)
    as_: Literal["json", "text", "bytes", "table"] = Field(
        "json", alias="as", description="What the answer is read as; table: CSV, or a JSON list of records."
    )
    max_bytes: int = Field(50 * 1024 * 1024, description="Largest answer that is read.", ge=1, le=2 * 1024**3)

    @field_validator("headers")
    @classmethod
    def _one_line_each(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            problem = _header_problem(name, value)
            if problem:
                raise ValueError(problem)
        return headers


def run(context: StepContext, params: Http) -> StepValue:
    """The body of the answer, read as the parameters say."""
    return exchange(context, params)


def exchange(context: StepContext, params: Http, resolve: Resolver = system_resolver) -> StepValue:
    """`run` with the name lookup as an argument."""
    for name, value in params.headers.items():
        problem = _header_problem(name, value)
        if problem:
            raise Refused(problem)
    limit_s = min(params.timeout.total_seconds(), context.timeout_s if context.timeout_s is not None else float("inf"))
    started = time.monotonic()
    cutoff = Cutoff(started + limit_s)
    context.on_stop(cutoff.cut)
    traffic = Traffic()
    try:
        peer, answer = _follow(context, params, cutoff, traffic, resolve)
    except (OSError, HTTPException) as error:
        if cutoff.passed:
            raise StepTimeout(
                f"{params.method}: no complete answer within {format_duration(timedelta(seconds=limit_s))}.",
                fix="Raise timeout, or ask for less.",
            ) from error
        raise
    finally:
        cutoff.done()
        context.used("calls", traffic.calls)
        context.used("moved_bytes", traffic.moved_bytes)
    context.log(f"{params.method} {peer}: {answer.status}, {len(answer.body)} bytes, {time.monotonic() - started:.2f} s")
    _require_expected(context, params, peer, answer)
    return _read(params, peer, answer)


def _follow(context: StepContext, params: Http, cutoff: Cutoff, traffic: Traffic, resolve: Resolver) -> tuple[str, Answer]:
    """The answer of the last of up to six requests, and who gave it; each address is checked before it is connected."""
    url = params.url
    query = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in params.query.items()}
    request = _request(params)
    previous: Destination | None = None
    for _ in range(MOSTREDIRECTS + 1):
        destination = _checked(url, context.allow.hosts, resolve, query, cutoff)
        if previous is not None and previous.origin != destination.origin:
            request = _abroad(request, previous, destination)
        answer = send(destination, request, cutoff, traffic)
        location = answer.headers.get("location")
        if answer.status not in REDIRECTS or not location or answer.status in (params.expect or ()):
            return destination.peer, answer
        url, query, previous = _redirected(destination, location), {}, destination
        if answer.status == 303 or (answer.status in (301, 302) and request.method == "POST"):
            kept = {name: value for name, value in request.headers.items() if name.lower() != "content-type"}
            request = replace(request, method="HEAD" if request.method == "HEAD" else "GET", body=None, headers=kept)
    raise DataProblem(f"{params.method}: more than {MOSTREDIRECTS} redirects.", fix="Write the final address.")


def _request(params: Http) -> Request:
    headers = dict(params.headers)
    body: bytes | None = None
    if "json_" in params.model_fields_set:
        body = json.dumps(plain_json(params.json_, "The parameter 'json'"), ensure_ascii=False, allow_nan=False).encode()
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
    if not any(name.lower() == "user-agent" for name in headers):
        headers["User-Agent"] = "agentic-workflows"
    return Request(params.method, headers, body, params.max_bytes)


def _checked(url: str, hosts: tuple[str, ...], resolve: Resolver, query: dict[str, str], cutoff: Cutoff) -> Destination:
    """`check_url` within the deadline; the system's name lookup knows no time limit of its own."""
    outcome: list[Destination | BaseException] = []

    def look_up() -> None:
        try:
            outcome.append(check_url(url, hosts, resolve, query))
        except BaseException as error:  # noqa: BLE001 - carried to the waiting thread and raised there
            outcome.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(cutoff.remaining_s())
    cutoff.remaining_s()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _abroad(request: Request, previous: Destination, destination: Destination) -> Request:
    """The request as another host may see it: without credentials, and never with a body meant for the first."""
    if request.body is not None:
        raise DataProblem(
            f"{previous.peer} redirects a request with a body to {destination.peer}.",
            fix="Send it there yourself, if that is meant.",
        )
    kept = {name: value for name, value in request.headers.items() if name.lower() in _KEPT_ABROAD}
    return replace(request, headers=kept)


def _redirected(destination: Destination, location: str) -> str:
    try:
        return urljoin(f"{destination.scheme}://{destination.peer}{destination.target}", location)
    except ValueError:
        raise Refused(f"{destination.peer} redirects to an address that cannot be read.") from None


def _require_expected(context: StepContext, params: Http, peer: str, answer: Answer) -> None:
    expected = answer.status in params.expect if params.expect is not None else 200 <= answer.status < 300
    if expected:
        return
    what = f"{params.method} {peer} answered {answer.status}"
    if answer.status == 429:
        wish = retry_after_s(answer.headers.get("retry-after"), datetime.now(UTC))
        raise RateLimited(
            f"{what}, too many requests{f'; it asks for {wish:g} s of patience' if wish is not None else ''}.",
            retry_after_s=wish,
            fix="Retry later and less often.",
        )
    if answer.status >= 500:
        raise PeerUnavailable(f"{what}.", fix="Try again later.")
    if answer.body:
        # Into the log, where secrets are masked, and not into the message: a server may echo what it was sent.
        context.log(f"{what}: {bounded(answer.body[:2000].decode('utf-8', 'replace'), 500)}")
    wanted = ", ".join(map(str, params.expect)) if params.expect else "200 to 299"
    raise DataProblem(f"{what}, expected {wanted}.", fix="The log has the beginning of its answer." if answer.body else "")


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds from `now` that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or a date); None: no wish."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _read(params: Http, peer: str, answer: Answer) -> StepValue:
    if params.as_ == "bytes":
        return answer.body
    if answer.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise DataProblem(f"{peer} compressed its answer, although it was asked not to.", fix="Read it as bytes.")
    if params.as_ == "text":
        return _text(peer, answer)
    if params.as_ == "json":
        return _json(peer, answer) if answer.body.strip() else None
    return _table(peer, answer)


def _text(peer: str, answer: Answer) -> str:
    charset = "utf-8"
    for piece in answer.headers.get("content-type", "").split(";")[1:]:
        name, _, value = piece.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip("\"'")
    try:
        return answer.body.decode(charset)
    except (UnicodeDecodeError, LookupError):
        raise DataProblem(f"The answer of {peer} is not text in '{bounded(charset)}'.", fix="Read it as bytes.") from None


def _json(peer: str, answer: Answer) -> Any:
    try:
        # NaN and Infinity, which JSON does not have and some servers send, are missing values here.
        return json.loads(answer.body, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        raise DataProblem(f"The answer of {peer} is not JSON.", fix="Read it as text, or look at the address.") from None


def _table(peer: str, answer: Answer) -> pd.DataFrame:
    if answer.body.lstrip()[:1] in (b"[", b"{"):
        records = _json(peer, answer)
        if not is_tabular(records):
            raise DataProblem(f"The answer of {peer} is not a list of records.", fix="Read it as json.")
        return as_table(records, "http")
    try:
        return pd.read_csv(BytesIO(answer.body))
    except (ValueError, UnicodeDecodeError) as error:
        raise DataProblem(f"The answer of {peer} is not CSV: {bounded(error, 120)}.", fix="Read it as text.") from None


def _header_problem(name: str, value: str) -> str:
    """What forbids a header, in a sentence that does not repeat its value; empty where nothing does."""
    lowered = name.lower()
    if not name or not _TOKEN.issuperset(lowered):
        return f"'{bounded(name)}' is not a header name."
    if lowered in _OWN_HEADERS or lowered.startswith("proxy-"):
        return f"The header '{bounded(name)}' is not the author's to set."
    if any((ord(character) < 32 and character != "\t") or ord(character) == 127 or ord(character) > 255 for character in value):
        return f"The value of the header '{bounded(name)}' has a line break or a character outside Latin-1."
    return ""


HTTP = StepKind(
    name="http",
    summary="Sends one HTTP request to a public host, or to a private one that the code location grants.",
    params=Http,
    run=run,
    example={
        "url": "https://api.example.org/v1/flights",
        "query": {"date": "2013-01-01"},
        "headers": {"Authorization": "Bearer ${{ secrets.flights_api }}"},
        "timeout": "20s",
        "as": "table",
    },
)
