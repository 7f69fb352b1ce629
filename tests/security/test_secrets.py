"""Secrets come from the environment or a regular file, and no form of them that a log usually has gets through the mask."""

from __future__ import annotations

import base64
import json
import os
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows_pkg.errors import Refused, SetupError
from workflows_pkg.security.secrets import MASK, Secrets

VALUE = 'p@ss/w&rd+"ü" 1\\n'


def secrets(value=VALUE, **more):
    return Secrets(
        ["token", *more],
        environ={"WORKFLOWS_SECRET_TOKEN": value, **{f"WORKFLOWS_SECRET_{n.upper()}": v for n, v in more.items()}},
    )


def test_the_environment_comes_before_the_file(tmp_path):
    (tmp_path / "token").write_text("from file\n")
    (tmp_path / "other").write_text("line one\nline two\r\n")
    found = Secrets(["token", "other"], tmp_path, {"WORKFLOWS_SECRET_TOKEN": "from environment"})
    assert found.value("token") == "from environment"
    assert found.value("other") == "line one\nline two"
    (tmp_path / "other").write_text("rotated")
    assert found.value("other") == "rotated"
    assert found.mask("line one\nline two, rotated") == f"{MASK}, {MASK}"
    assert "from" not in repr(found)


def test_only_granted_names_are_read(tmp_path):
    (tmp_path / "token").write_text("value")
    found = Secrets(["token"], tmp_path, {"WORKFLOWS_SECRET_OTHER": "other value"})
    with pytest.raises(Refused, match=r"The secret 'tokn' is not granted.*Did you mean 'token'"):
        found.value("tokn")
    with pytest.raises(Refused, match="not granted"):
        found.value("other")
    for name in ("../token", "/etc/passwd", "a/b", "", "TOKEN", "a\0"):
        with pytest.raises(SetupError, match="is not a name of a secret"):
            Secrets([name], tmp_path, {}).value(name)


def test_missing_and_empty_secrets_say_where_to_put_them(tmp_path):
    with pytest.raises(SetupError, match=r"has no value. Set the environment variable WORKFLOWS_SECRET_A or the file .*/a\."):
        Secrets(["a"], tmp_path, {}).value("a")
    with pytest.raises(SetupError, match="is empty"):
        Secrets(["a"], None, {"WORKFLOWS_SECRET_A": ""}).value("a")


def test_only_regular_text_files_are_read(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("canary")
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "large").write_bytes(b"x" * 70_000)
    (folder / "binary").write_bytes(b"canary\xff\xfe")
    (folder / "device").symlink_to("/dev/zero")
    for name in ("link", "dangling", "folder", "pipe", "large", "binary", "device"):
        with pytest.raises(SetupError) as caught:
            Secrets([name], folder, {}).value(name)
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
    with pytest.raises(SetupError, match="is a symbolic link"):
        Secrets(["link"], folder, {}).value("link")
    assert Secrets(["link"], folder, {}).mask("canary") == "canary"  # never read, so not known either


def forms_of(value):
    data = value.encode()
    return {
        "plain": value,
        "base64": base64.b64encode(data).decode(),
        "base64 for URLs": base64.urlsafe_b64encode(data).decode(),
        "base64 without padding": base64.b64encode(data).decode().rstrip("="),
        "hex": data.hex(),
        "hex in capitals": data.hex().upper(),
        "URL": quote(value),
        "URL, slashes too": quote(value, safe=""),
        "form": quote_plus(value),
        "query": urlencode({"q": value})[2:],
        "JSON": json.dumps(value, ensure_ascii=False)[1:-1],
        "ASCII JSON": json.dumps(value)[1:-1],
        "repr": repr(value)[1:-1],
        "repr of bytes": repr(data)[2:-1],
    }


@pytest.mark.parametrize("form", forms_of(VALUE))
@pytest.mark.parametrize("value", [VALUE, "s3cr3t-token-0123", "abcd", "-----KEY-----\nMIIEvQIBADANBgkq\n-----END-----"])
def test_each_form_is_masked(form, value):
    text = forms_of(value)[form]
    masked = secrets(value).mask(f"before {text} after {text}")
    assert masked == f"before {MASK} after {MASK}"


@pytest.mark.parametrize("before", ["", "u", "us", "use", "user:"])
@pytest.mark.parametrize("after", ["", "a", "ab", ":after"])
def test_base64_around_the_value_is_masked_as_in_a_basic_header(before, after):
    value = "s3cr3t-token-0123"
    header = base64.b64encode((before + value + after).encode()).decode()
    masked = secrets(value).mask(f"Authorization: Basic {header}")
    assert MASK in masked
    for left in masked.removeprefix("Authorization: Basic ").rstrip("=").split(MASK):
        for start in range(4):
            whole = left[start : start + (len(left) - start) // 4 * 4]
            assert not any(part in base64.b64decode(whole) for part in (b"s3cr", b"cret", b"0123"))


def test_long_values_are_found_line_by_line():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----"
    masked = secrets(key).mask("one line: hkiG9w0BAQEFAASC, and indented\n    MIIEvQIBADANBgkq")
    assert masked == f"one line: {MASK}, and indented\n    {MASK}"


def test_the_longer_of_two_values_is_masked_whole():
    assert secrets("abcd", longer="abcdefgh").mask("abcdefgh abcd") == f"{MASK} {MASK}"


def test_values_under_four_characters_are_left_alone():
    assert secrets("abc").mask("abc in alphabet") == "abc in alphabet"
    assert Secrets([], environ={}).mask("text") == "text"


def test_a_value_is_masked_before_it_was_ever_used():
    assert secrets("s3cr3t").mask("s3cr3t") == MASK


@given(st.text(min_size=4, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_the_value_is_nowhere_in_a_masked_text(value, before, after):
    if MASK in value or value in MASK * 20 or value in before + MASK or value in MASK + after:
        return
    masked = secrets(value).mask(f"{before}{value}{after}")
    assert value not in masked
