"""Which network addresses may a declarative step reach? Public ones, and the private peers the code location names.

The host is resolved once, here; whoever connects takes the checked addresses and never the name, so that a name
server which changes its answer between check and connection gains nothing. What a URL *looks* like is not judged:
`0x7f000001`, `127.1` and `localhost.` all resolve to 127.0.0.1, and that is what is refused.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urlencode, urlsplit

from workflows_pkg.errors import PeerUnavailable, Refused, bounded

Resolver = Callable[[str, int], Iterable[str]]
"""Addresses of a host name, as text; raises OSError where there are none."""

_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"(?=.{1,253}\.?$)[a-z0-9_]([a-z0-9_-]{0,62})?(\.[a-z0-9_]([a-z0-9_-]{0,62})?)*\.?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host service; not in the registry, and answers only inside that cloud
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",  # Python 3.11 takes most of it for public; Oracle's metadata service is there
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
"""IANA's registry of special-purpose IPv4 addresses, written out because Python's own list changes with its version."""
_UNICAST_V6 = IPv6Network("2000::/3")
"""The only IPv6 addresses that are handed out for global use; everything else is special."""
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments; Teredo among them carries any IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4, carries any IPv4 address
        "3fff::/20",
    )
)
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""NAT64 (RFC 6052): an IPv4 address in the last four bytes, public where that one is."""


@dataclass(frozen=True)
class Destination:
    """A URL taken apart and checked.

    addresses: where to connect, in the resolver's order; every one of them was checked. target: path and query.
    """

    scheme: str
    host: str
    port: int
    target: str
    addresses: tuple[str, ...]

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what credentials belong to."""
        return self.scheme, self.host, self.port

    @property
    def peer(self) -> str:
        """Host and port, as they appear in a Host header and in messages; path and query may hold secrets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def system_resolver(host: str, port: int) -> list[str]:
    """The operating system's answer, without duplicates, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_url(
    url: str, allowed_hosts: Iterable[str] = (), resolve: Resolver = system_resolver, query: dict[str, str] | None = None
) -> Destination:
    """Where `url` leads, with `query` added, once it is certain that a step may go there.

    allowed_hosts: "host:port" of peers that may have any address. Raises Refused for a URL or an address that is not
    allowed, PeerUnavailable for a host that cannot be resolved. No message repeats more of the URL than its host.
    """
    scheme, host, port, target = _parts(url, query or {})
    try:
        addresses = tuple(resolve(host, port))
    except (OSError, UnicodeError) as error:
        raise PeerUnavailable(
            f"The host '{bounded(host)}' cannot be resolved.", fix="Check its spelling, and the network."
        ) from error
    if not addresses:
        raise PeerUnavailable(f"The host '{bounded(host)}' has no address.")
    if (host.rstrip("."), port) not in {_host_and_port(entry) for entry in allowed_hosts}:
        for address in addresses:
            reason = why_not_public(address)
            if reason:
                raise Refused(
                    f"The host '{bounded(host)}' has the address {bounded(address)}, which is {reason}.",
                    fix=f"Steps reach public addresses; the code location can allow '{bounded(host)}:{port}'.",
                )
    return Destination(scheme, host, port, target, addresses)


def why_not_public(address: str) -> str:
    """Why a step may not connect to `address`, in words; empty where it may."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "not an IP address"
    if isinstance(parsed, IPv6Address):
        return _why_not_public_v6(parsed)
    return _why_not_public_v4(parsed)


def _why_not_public_v4(address: IPv4Address) -> str:
    if not any(address in network for network in _NOT_PUBLIC_V4):
        return ""
    if address.is_loopback or address.is_unspecified:
        return "this machine"
    return "link-local, where clouds keep credentials" if address.is_link_local else "private or reserved"


def _why_not_public_v6(address: IPv6Address) -> str:
    if address.ipv4_mapped is not None:
        return _why_not_public_v4(address.ipv4_mapped)
    if address in _TRANSLATED:
        return _why_not_public_v4(IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _UNICAST_V6 and address.scope_id is None and not any(address in network for network in _NOT_PUBLIC_V6):
        return ""
    if address.is_loopback or address.is_unspecified:
        return "this machine"
    return "link-local, where clouds keep credentials" if address.is_link_local else "private or reserved"


def _parts(url: str, query: dict[str, str]) -> tuple[str, str, int, str]:
    if len(url) > 4000:
        raise Refused("The URL is longer than 4000 characters.")
    if _CONTROL.search(url) or url != url.strip():
        raise Refused("The URL contains a control character, a backslash or blanks around it.")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise Refused("The URL cannot be read.", fix="Write it like https://example.org/path.") from None
    if parts.scheme not in _PORTS:
        raise Refused(f"Expected a URL with http or https, found '{bounded(parts.scheme)}'.", fix="Write https://… .")
    if "@" in parts.netloc:
        raise Refused("The URL holds a user name or password.", fix="Send credentials in a header, from a secret.")
    if not host or parts.netloc.endswith(":") or port == 0:
        raise Refused("The URL has no host, or an empty or zero port.", fix="Write it like https://example.org/path.")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    added = urlencode(query)
    asked = "&".join(part for part in (quote(parts.query, safe="/%:@!$&'()*+,;=~-._?"), added) if part)
    return parts.scheme, _host(host, parts.netloc), port or _PORTS[parts.scheme], f"{path}?{asked}" if asked else path


def _host(host: str, netloc: str) -> str:
    """The host in the one form that is resolved, sent and compared: lower case, ASCII."""
    if netloc.startswith("["):
        try:
            return str(IPv6Address(host))
        except ValueError:
            raise Refused(f"'{bounded(host)}' is not an IPv6 address.") from None
    try:
        ascii_host = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise Refused(f"'{bounded(host)}' is not a host name.") from None
    if not _HOST_NAME.fullmatch(ascii_host):
        raise Refused(f"'{bounded(host)}' is not a host name.")
    return ascii_host


def _host_and_port(entry: str) -> tuple[str, int]:
    """An entry of `Allow.hosts`; one without a port allows nothing, rather than every port."""
    host, _, port = entry.rpartition(":")
    return host.strip("[]").rstrip(".").lower(), int(port) if port.isdigit() else -1
