"""A message is delivered for real, and where it went is told to nobody."""

from __future__ import annotations

import builtins
import json
import logging
import socket

import pytest
from pydantic import ValidationError

from workflows_pkg.errors import CodeProblem, MissingExtra, PeerUnavailable
from workflows_pkg.steps.communication.notify import Notify, run
from workflows_pkg.steps.contract import FromSecret

# apprise looks at all its services when the first is used; one of them imports it
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


def test_a_message_reaches_a_receiver(make_context, peer):
    peer.answer("/hook/t0ken", 200, b"ok")
    lines: list[str] = []
    params = Notify(to=f"json://{peer.host}/hook/t0ken", title="Flights", text="336,776 flights <b>${{7*7}}</b>")
    counted: list[tuple[str, int]] = []
    assert run(make_context(lines, used=lambda *used: counted.append(used)), params) == {"delivered": True}
    assert counted == [("calls", 1)]
    sent = json.loads(peer.seen[0][3])
    assert sent["title"] == "Flights"
    assert sent["message"] == "336,776 flights <b>${{7*7}}</b>"
    assert "t0ken" not in " ".join(lines) + repr(params)


@pytest.mark.parametrize("status", [404, 500])
def test_a_failed_delivery_names_no_address(make_context, peer, status, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    peer.answer("/hook/t0ken", status, b"no t0ken")
    lines: list[str] = []
    with pytest.raises(PeerUnavailable, match="could not be delivered") as caught:
        run(make_context(lines), Notify(to=f"json://{peer.host}/hook/t0ken", text="x"))
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    everything = " ".join(f"{error!r} {error}" for error in chain) + caplog.text + " ".join(lines) + "".join(capfd.readouterr())
    assert peer.connections == 1
    assert "t0ken" not in everything
    assert peer.host not in everything


def test_the_receiver_that_is_not_there(make_context):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(PeerUnavailable) as caught:
        run(make_context(), Notify(to=f"json://127.0.0.1:{port}/t0ken", text="x"))
    assert "t0ken" not in str(caught.value)


def test_apprise_itself_does_log_addresses(peer, caplog):
    """The control: what is silenced does speak."""
    import apprise

    caplog.set_level(logging.DEBUG)
    peer.answer("/hook/t0ken", 500)
    sender = apprise.Apprise()
    sender.add(f"json://{peer.host}/hook/t0ken")
    sender.notify(body="x")
    assert "t0ken" in caplog.text


def test_an_address_that_apprise_does_not_know(make_context, caplog):
    for address in ("nosuch://t0ken", "t0ken", "https://"):
        with pytest.raises((CodeProblem, PeerUnavailable)) as caught:
            run(make_context(), Notify(to=address, text="x"))
        assert "t0ken" not in str(caught.value) + caplog.text


def test_the_filters_are_gone_afterwards(make_context, peer):
    peer.answer("/", 200)
    before = {name: list(logging.getLogger(name).filters) for name in ("apprise", "urllib3.connectionpool")}
    run(make_context(), Notify(to=f"json://{peer.host}/", text="x"))
    assert before == {name: list(logging.getLogger(name).filters) for name in before}


def test_without_the_extra_one_sentence_says_what_to_install(make_context, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "apprise":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install 'agentic-workflows\[notify\]'"):
        run(make_context(), Notify(to="json://x", text="x"))


def test_where_to_is_marked_as_coming_from_a_secret_and_never_repeated():
    (mark,) = [mark for mark in Notify.model_fields["to"].metadata if isinstance(mark, FromSecret)]
    assert mark.secret_only is True
    with pytest.raises(ValidationError) as caught:
        Notify(to="json://t0ken", text="")
    assert "t0ken" not in str(caught.value)
