"""No declarative step reaches an address it may not: counted at listeners and at the socket calls, not by return codes."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.error
import urllib.request

import pytest

from workflows_pkg.errors import PeerUnavailable, Refused, StepError
from workflows_pkg.security.addresses import check_url, system_resolver, why_not_public
from workflows_pkg.security.allow import Allow
from workflows_pkg.steps.http import Http, exchange

NAMES = {
    "rebind.example": ["127.0.0.1"],
    "mixed.example": ["93.184.216.34", "127.0.0.1"],
    "six.example": ["::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "metadata6.example": ["fd00:ec2::254"],
    "scoped.example": ["fe80::1%2"],
    "odd.example": ["not an address"],
}
# {p} is the port of a listener on every address of this machine
HOSTILE = [
    "http://127.0.0.1:{p}/",
    "http://127.1:{p}/",
    "http://127.0.1:{p}/",
    "http://127.255.255.254:{p}/",
    "http://0x7f000001:{p}/",
    "http://0x7f.0.0.1:{p}/",
    "http://0x7f.1:{p}/",
    "http://2130706433:{p}/",
    "http://017700000001:{p}/",
    "http://0177.0.0.1:{p}/",
    "http://0177.1:{p}/",
    "http://127.0.0.1.:{p}/",
    "http://localhost:{p}/",
    "http://localhost.:{p}/",
    "http://LOCALHOST:{p}/",
    "HTTP://127.0.0.1:{p}/",
    "http://0:{p}/",
    "http://0.0.0.0:{p}/",
    "http://0x0:{p}/",
    "http://[::1]:{p}/",
    "http://[::]:{p}/",
    "http://[0:0:0:0:0:0:0:1]:{p}/",
    "http://[0000::0001]:{p}/",
    "http://[::ffff:127.0.0.1]:{p}/",
    "http://[::ffff:7f00:1]:{p}/",
    "http://[::FFFF:7F00:0001]:{p}/",
    "http://[::127.0.0.1]:{p}/",
    "http://[::ffff:0:127.0.0.1]:{p}/",
    "http://[64:ff9b::7f00:1]:{p}/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::7f00:1]:{p}/",
    "http://[2002:7f00:1::]:{p}/",
    "http://[2001::7f00:1]:{p}/",
    "http://[fe80::1]:{p}/",
    "http://[fe80::1%25lo]:{p}/",
    "http://[::1%25lo]:{p}/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[127.0.0.1]:{p}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://0xa9fea9fe/",
    "http://2852039166/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://100.100.100.200/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://192.0.0.192/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://192.0.2.1/",
    "http://203.0.113.7/",
    "http://224.0.0.1/",
    "http://239.255.255.250:1900/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://example.org@127.0.0.1:{p}/",
    "http://127.0.0.1:{p}@example.org/",
    "http://user:word@127.0.0.1:{p}/",
    "http://@127.0.0.1:{p}/",
    "http://example.org%40127.0.0.1:{p}/",
    "http://127.0.0.1:{p}\\@example.org/",
    "http://example.org\\@127.0.0.1:{p}/",
    "http:\\\\127.0.0.1:{p}\\",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:{p}/",
    "http://\uff11\uff12\uff17.0.0.1:{p}/",
    "http://127\u30020\u30020\u30021:{p}/",
    "http://\u217c\u2134calho\u017ft:{p}/",
    "http://%31%32%37.0.0.1:{p}/",
    "http://127.0.0.1%00.example.org:{p}/",
    "http://127.0.0.1\t:{p}/",
    "http://127.0.0.1\n:{p}/",
    "http://127.0.0.1\r\nHost: example.org:{p}/",
    "http://127.0.0.1 :{p}/",
    " http://127.0.0.1:{p}/",
    "http://127.0.0.1:{p}:80/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:/",
    "http:127.0.0.1:{p}",
    "http:///127.0.0.1:{p}/",
    "//127.0.0.1:{p}/",
    "127.0.0.1:{p}/",
    "http://",
    "http://[::1",
    "",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "gopher://127.0.0.1:{p}/_GET",
    "dict://127.0.0.1:{p}/info",
    "ftp://127.0.0.1:{p}/",
    "ldap://127.0.0.1:{p}/",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "data:application/json,{{}}",
    "jar:http://127.0.0.1:{p}/!/",
    "ws://127.0.0.1:{p}/",
    *(f"http://{name}:{{p}}/" for name in NAMES),
]


def resolver(host, port):
    if host in NAMES:
        return NAMES[host]
    if any(character.isdigit() for character in host) or host.rstrip(".") == "localhost":
        return system_resolver(host, port)
    raise socket.gaierror(-2, "Name or service not known")


def test_hostile_urls_open_no_connection(make_context, listener, connects):
    assert len(HOSTILE) >= 60
    for form in HOSTILE:
        url = form.format(p=listener.port)
        with pytest.raises((Refused, PeerUnavailable)) as caught:
            exchange(make_context(), Http(url=url), resolver)
        assert str(caught.value).count("\n") == 0, url
    time.sleep(0.1)
    assert connects.addresses == []
    assert listener.connections == 0


def test_a_plain_client_does_connect_to_many_of_them(listener):
    """The control: the listener sees who comes, and the forms are not harmless."""
    reached = 0
    for form in HOSTILE:
        url = form.format(p=listener.port)
        if f":{listener.port}" not in url or ".example" in url or "example.org" in url or not url.startswith("http"):
            continue
        try:
            with urllib.request.urlopen(url, timeout=0.3):
                reached += 1
        except (OSError, ValueError, http.client.HTTPException, urllib.error.URLError):
            continue
    time.sleep(0.1)
    assert reached >= 12
    assert listener.connections >= reached


def test_an_allowed_private_host_is_reached(make_context, peer):
    peer.answer("/", 200, b'{"ok": 1}')
    context = make_context(allow=Allow(hosts=(peer.host,)))
    assert exchange(context, Http(url=peer.url())) == {"ok": 1}
    assert peer.connections == 1
    with pytest.raises(Refused, match="this machine"):
        exchange(make_context(allow=Allow(hosts=("127.0.0.1",))), Http(url=peer.url()))
    with pytest.raises(Refused, match="this machine"):
        exchange(make_context(allow=Allow(hosts=(f"127.0.0.1:{peer.port + 1}",))), Http(url=peer.url()))
    assert peer.connections == 1


def changing_resolver():
    """A name server that answers with a public address to the check, and with this machine to the next question."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[str] = []

    def resolve(host, port):
        asked.append(host)
        return next(answers)

    return resolve, asked


def test_a_name_that_changes_its_address_is_resolved_once_and_the_checked_address_is_connected(make_context, listener, connects):
    resolve, asked = changing_resolver()
    with pytest.raises(PeerUnavailable):
        exchange(make_context(), Http(url=f"http://rebind.example:{listener.port}/"), resolve)
    assert asked == ["rebind.example"]
    assert connects.addresses == [("93.184.216.34", listener.port)]
    assert listener.connections == 0


def test_a_client_that_checks_and_then_connects_by_name_is_caught_by_the_same_resolver(listener):
    """The control: check and connection ask separately, and the second answer wins."""
    resolve, _ = changing_resolver()
    destination = check_url(f"http://rebind.example:{listener.port}/", resolve=resolve)
    connection = http.client.HTTPConnection(next(iter(resolve(destination.host, destination.port))), destination.port, timeout=2)
    connection.request("GET", "/")
    connection.getresponse().read()
    connection.close()
    assert listener.connections == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_private_addresses_are_refused(make_context, peer, listener, status):
    for target in (
        f"http://127.0.0.1:{listener.port}/",
        f"//localhost:{listener.port}/",
        f"http://0x7f000001:{listener.port}/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        f"http://user@127.0.0.1:{listener.port}/",
        "http://[::1",
    ):
        peer.answer("/", status, Location=target)
        with pytest.raises(Refused):
            exchange(make_context(allow=Allow(hosts=(peer.host,))), Http(url=peer.url()))
    assert listener.connections == 0


def test_redirects_are_followed_five_times(make_context, peer):
    for number in range(7):
        peer.answer(f"/{number}", 302, Location=f"/{number + 1}")
    peer.answer("/5", 200, b'"end"')
    context = make_context(allow=Allow(hosts=(peer.host,)))
    assert exchange(context, Http(url=peer.url("/0"))) == "end"
    peer.answer("/5", 302, Location="/6")
    with pytest.raises(StepError, match="more than 5 redirects"):
        exchange(context, Http(url=peer.url("/0")))


def test_credentials_stay_behind_when_a_redirect_changes_the_host(make_context, new_peer):
    first, second = new_peer(), new_peer()
    first.answer("/", 302, Location=second.url("/there"))
    first.answer("/here", 302, Location="/stay")
    first.answer("/stay", 200, b"1")
    second.answer("/there", 200, b"2")
    context = make_context(allow=Allow(hosts=(first.host, second.host)))
    secret = {"Authorization": "Bearer s3cr3t", "X-Api-Key": "s3cr3t", "Cookie": "a=s3cr3t", "Accept": "application/json"}
    assert exchange(context, Http(url=first.url(), headers=secret, query={"token": "s3cr3t"})) == 2
    _, path, headers, _ = second.seen[0]
    assert "s3cr3t" not in str(headers) + path
    assert headers["accept"] == "application/json"
    assert headers["host"] == second.host
    assert exchange(context, Http(url=first.url("/here"), headers=secret)) == 1
    assert first.seen[-1][2]["authorization"] == "Bearer s3cr3t"


def test_a_body_is_not_carried_to_another_host(make_context, new_peer):
    first, second = new_peer(), new_peer()
    second.answer("/", 200, b"{}")
    context = make_context(allow=Allow(hosts=(first.host, second.host)))
    first.answer("/", 307, Location=second.url())
    with pytest.raises(StepError, match="redirects a request with a body"):
        exchange(context, Http(url=first.url(), method="POST", json={"password": "x"}))
    assert second.connections == 0
    first.answer("/", 303, Location=second.url())
    exchange(context, Http(url=first.url(), method="POST", json={"password": "x"}))
    assert second.seen[0][0] == "GET"
    assert second.seen[0][3] == b""


def test_the_environment_s_proxy_is_not_used(make_context, peer, listener, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.port}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{listener.port}")
    peer.answer("/", 200, b"1")
    assert exchange(make_context(allow=Allow(hosts=(peer.host,))), Http(url=peer.url())) == 1
    assert listener.connections == 0


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_allowed(address):
    assert why_not_public(address) == ""


def test_no_message_repeats_more_of_the_url_than_its_host(make_context):
    for url in ("http://10.0.0.1/s3cr3t?k=s3cr3t", "http://u:s3cr3t@h/", "http://h h/s3cr3t\n", "x://s3cr3t", "http://[s3cr3t/"):
        with pytest.raises(Refused) as caught:
            check_url(url, resolve=resolver)
        assert "s3cr3t" not in str(caught.value)


def test_a_url_reaches_the_wire_as_one_request_line(make_context, peer):
    peer.answer("/a%20b/%C3%BC", 200, b"1")
    context = make_context(allow=Allow(hosts=(peer.host,)))
    url = peer.url("/a b/ü?q=1&r=a b#fragment")
    assert exchange(context, Http(url=url, query={"n": 2, "yes": True, "t": "x y&z\r\n"})) == 1
    assert peer.seen[0][1] == "/a%20b/%C3%BC?q=1&r=a%20b&n=2&yes=true&t=x+y%26z%0D%0A"
