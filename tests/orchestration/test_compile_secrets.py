"""Does a secret stay out of the event log, whatever a step does with it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VALUE = "s3cr3t-t0ken/42"


def _raises_from(context: Any, value: str) -> None:
    try:
        raise KeyError(value)
    except KeyError as inner:
        raise ConnectionError(f"login with {value} failed") from inner


def _raises_in_the_middle(context: Any, value: str) -> None:
    try:
        raise KeyError(value)
    except KeyError:
        raise ConnectionError("login failed")  # noqa: B904 - the error that a traceback shows as context


def _notes(context: Any, value: str) -> None:
    error = ConnectionError("login failed")
    error.add_note(f"with {value}")
    raise error


def _keeps_it_elsewhere(context: Any, value: str) -> None:
    class LoginError(Exception):
        def __str__(self) -> str:
            return f"login with {value}"

    raise LoginError


def _logs(context: Any, value: str) -> None:
    context.log(f"trying {value}")
    raise ConnectionError("login failed")


LEAKS = [_raises_from, _raises_in_the_middle, _notes, _keeps_it_elsewhere, _logs]


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__.strip("_"))
@pytest.mark.parametrize("retry", [None, {"attempts": 2, "delay": "1ms"}], ids=["once", "retried"])
def test_no_error_shows_a_secret(bench: Any, leak: Callable[..., None], retry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOWS_SECRET_TOKEN", VALUE)
    bench.secrets = ("token",)
    bench.functions = {"a": lambda c, p: leak(c, c.secret("token"))}
    outcome = bench.run({"steps": {"a": {"retry": retry} if retry else {}}})
    assert not outcome.success
    assert VALUE not in outcome.text()
    assert outcome.error_classes("STEP_FAILURE", "a")[-1] != "Exception"  # the class name is kept


def test_the_control_shows_what_would_be_found_without_masking(bench: Any) -> None:
    """The same leaks with a value that is no granted secret are all visible, so the test above can fail."""
    for leak in LEAKS:
        bench.functions = {"a": lambda c, p, leak=leak: leak(c, VALUE)}
        assert VALUE in bench.run({"steps": {"a": {}}}).text(), leak


def test_a_secret_as_a_parameter_reaches_the_step_and_no_log(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOWS_SECRET_TOKEN", VALUE)
    bench.secrets = ("token",)
    seen: list[Any] = []
    bench.functions = {"a": lambda c, p: seen.append(p.value)}
    assert VALUE not in bench.run({"steps": {"a": {"with": {"value": "Bearer ${{ secrets.token }}"}}}}).text()
    assert seen == [f"Bearer {VALUE}"]
    wrong = bench.run({"steps": {"a": {"with": {"number": "${{ secrets.token }}"}}}})
    assert not wrong.success
    assert VALUE not in wrong.text()


def test_secrets_are_read_from_the_instances_folder(bench: Any) -> None:
    folder: Path = bench.home / "secrets"
    folder.mkdir()
    (folder / "token").write_text(f"{VALUE}\n")
    bench.secrets = ("token",)
    seen: list[Any] = []
    bench.functions = {"a": lambda c, p: seen.append(c.secret("token"))}
    assert bench.run({"steps": {"a": {}}}).success
    assert seen == [VALUE]


def test_a_secret_that_is_not_granted_is_refused(bench: Any) -> None:
    bench.functions = {"a": lambda c, p: c.secret("token")}
    outcome = bench.run({"steps": {"a": {}}})
    assert outcome.error_classes("STEP_FAILURE", "a")[-1] == "Refused"


def test_what_on_failure_is_told_is_masked_and_so_is_its_own_error(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOWS_SECRET_TOKEN", VALUE)
    bench.secrets = ("token",)
    told: list[str] = []

    def tell(context: Any, params: Any) -> None:
        told.append(params.value)
        raise ConnectionError(f"cannot tell {context.secret('token')}")

    bench.functions = {"a": lambda c, p: _raises_from(c, c.secret("token")), "tell": tell}
    spec = {"steps": {"a": {}}, "on_failure": {"uses": "test.do", "with": {"function": "tell", "value": "${{ failure.error }}"}}}
    outcome = bench.run(spec)
    assert len(outcome.events("HOOK_ERRORED")) == 1
    assert VALUE not in outcome.text()
    assert told
    assert VALUE not in told[0]
