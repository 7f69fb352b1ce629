"""A tuning file: every mistake with its place, and edits that leave the rest of the text alone."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows_pkg.errors import SpecError, WorkflowsError
from workflows_pkg.spec.schema import TUNING_FILE, schema_text, tuning_schema
from workflows_pkg.spec.tuning import (
    Address,
    entries,
    load_tuning,
    parse_address,
    parse_tuning,
    tuning_digest,
    with_entry,
    without_entry,
)

TEXT = """\
# ours, not theirs
job:nightly:          # the long one
  timeout: 2h
  # it fails when the bank is late
  retry: {attempts: 3, delay: 10s, backoff: exponential, jitter: full}

# loading is worse
job:nightly/step:load:
  retry: {attempts: 5, delay: 1s}
asset:raw/orders:
  retry:
    attempts: 4
    delay: 30s

schedule:daily_orders: {timeout: 30m}
sensor:new_files: {timeout: 45m}
# the end
"""
RETRY = {"retry": {"attempts": 3, "delay": "30s", "backoff": "exponential", "jitter": "full"}}


def test_a_file_becomes_entries_by_address(tmp_path: Path) -> None:
    file = tmp_path / "tuning.yaml"
    file.write_text(TEXT)
    tuning = load_tuning(file)
    assert [str(address) for address in tuning.entries] == list(entries(TEXT))
    assert tuning.entries[Address("job", "nightly")].timeout == timedelta(hours=2)
    retry = tuning.entries[Address("step", "nightly", "load")].retry
    assert retry is not None
    assert (retry.attempts, retry.delay, retry.backoff) == (5, timedelta(seconds=1), "constant")
    assert tuning.entries[Address("sensor", "new_files")].retry is None


def test_no_file_is_no_tuning(tmp_path: Path) -> None:
    assert load_tuning(tmp_path / "tuning.yaml").entries == {}
    assert parse_tuning("# nothing\n").entries == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("job:a: 3", "1:8: job:a: expected timeout, deadline, budget or retry, found the number 3."),
        (
            "jobs:a: {timeout: 1h}",
            "1:1: expected job:NAME, job:NAME/step:KEY, asset:KEY, schedule:NAME or sensor:NAME, found 'jobs:a'. Did you mean 'job'?",
        ),
        ("job:a b: {timeout: 1h}", "1:1: expected job:NAME"),
        (
            "asset:x:\n  timeout: 1h",
            "2:3: asset:x: a timeout belongs to a run, and Dagster times no single step. Put it at the job that makes it",
        ),
        (
            "job:a/step:b: {timeout: 1h}",
            "1:16: job:a/step:b: a timeout belongs to a run, and Dagster times no single step. Put it at job:a.",
        ),
        ("schedule:s: {retry: {attempts: 2}}", "Put it at the job that it asks for"),
        ("job:a: {retry: {attempts: 3, on: [OSError]}}", "1:30: job:a: Dagster's retry policy cannot tell errors apart"),
        ("job:a: {timeot: 1h}", "1:9: job:a: there is no field 'timeot'. Did you mean 'timeout'?"),
        (
            "job:a: {timeout: soon}",
            "1:18: job:a.timeout: expected a duration such as 500ms, 10s, 30m or 1h30m, found text 'soon'.",
        ),
        ("job:a: {retry: {attempts: 0}}", "1:27: job:a.retry.attempts: expected at least 1, found the number 0."),
        ("job:a: {}", "expected timeout, deadline, budget or retry, found none."),
        ("job:a: {timeout: 1h}\njob:a: {timeout: 2h}", "2:1: the key 'job:a' is given twice"),
        ("- job:a", "1:1: expected entries by address, found a list."),
        ("job:a: &x {timeout: 1h}", "anchors (&x) are refused."),
    ],
)
def test_a_mistake_has_its_place_and_what_to_do(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_tuning(text, "t.yaml")
    (problem,) = caught.value.problems
    assert said in str(problem)
    assert str(problem).startswith("t.yaml:")


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse_tuning("asset:x: {timeout: 1h}\njobs:a: 3\njob:b: {retry: {attempts: x}}\n")
    assert [problem.line for problem in caught.value.problems] == [1, 2, 3]


def test_an_address_without_its_mapping_key() -> None:
    assert parse_address("job:a/step:leaf[b.c]") == Address("step", "a", "leaf")
    assert parse_address("asset:Raw/My Orders") == Address("asset", "Raw/My Orders")


def test_the_digest_says_which_entries_in_whatever_order_and_style() -> None:
    one = parse_tuning("job:a: {timeout: 1h}\njob:b: {timeout: 60m}\n").entries
    other = parse_tuning("job:b:\n  timeout: 1h\n# comment\njob:a:\n  timeout: 3600s\n").entries
    assert tuning_digest(one) == tuning_digest(other)
    assert tuning_digest(one) != tuning_digest(parse_tuning("job:a: {timeout: 1h}\n").entries)


def test_a_new_entry_goes_to_the_end_and_comes_off_again() -> None:
    more = with_entry(TEXT, "job:weekly", RETRY)
    assert more == TEXT + "job:weekly:\n  retry: {attempts: 3, delay: 30s, backoff: exponential, jitter: full}\n"
    assert without_entry(more, "job:weekly") == TEXT


def test_an_entry_is_exchanged_where_it_stands() -> None:
    new = with_entry(TEXT, "asset:raw/orders", RETRY)
    assert list(entries(new)) == list(entries(TEXT))
    assert entries(new)["asset:raw/orders"] == RETRY
    before, after = TEXT.splitlines(), new.splitlines()
    assert [line for line in before if line not in after] == ["  retry:", "    attempts: 4", "    delay: 30s"]


@pytest.mark.parametrize("address", list(entries(TEXT)))
def test_removing_one_entry_keeps_every_other_line(address: str) -> None:
    left = without_entry(TEXT, address)
    assert entries(left) == {key: value for key, value in entries(TEXT).items() if key != address}
    for comment in ("# ours, not theirs", "# loading is worse", "# the end"):
        assert comment in left
    assert without_entry(left, address) == left


@pytest.mark.parametrize(
    "text",
    ["", "# only a comment", "\ufeff"[:0], "job:a: {timeout: 1h}", "job:a: {timeout: 1h}\r\njob:b: {timeout: 2h}\r\n", "{}"],
)
def test_small_and_unusual_files(text: str) -> None:
    if text == "{}":
        with pytest.raises(SpecError, match="lines of their own"):
            with_entry(text, "job:x", {"timeout": "1h"})
        return
    new = with_entry(text, "job:x", {"timeout": "1h"})
    assert entries(new) == {**entries(text), "job:x": {"timeout": "1h"}}
    assert without_entry(new, "job:x").removesuffix("\n").removesuffix("\r") == text.removesuffix("\n").removesuffix("\r")
    assert ("\r\n" in new) == ("\r\n" in text)


def test_an_entry_that_cannot_be_laid_over_is_not_written() -> None:
    with pytest.raises(SpecError, match="a timeout belongs to a run"):
        with_entry(TEXT, "asset:raw/orders", {"timeout": "1h"})


def test_a_file_that_editing_would_damage_is_left_to_its_author() -> None:
    odd = 'job:a: {timeout: 1h}\n"job:\\x62": {timeout: 1h}\n...\n'
    with pytest.raises((WorkflowsError, SpecError)):
        with_entry(odd, "job:c", {"timeout": "1h"})


addresses = st.sampled_from(
    ["job:a", "job:b/step:c.d", "asset:raw/x y", "asset:ü", "schedule:s", "sensor:t", "asset:a#b", "asset:yes: no"]
)
comments = st.sampled_from(["", "\n", "# note\n", "\n# two\n# lines\n\n"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(addresses, comments), unique_by=lambda pair: pair[0]), addresses)
def test_with_and_without_are_each_others_undoing(parts: list[tuple[str, str]], address: str) -> None:
    text = ""
    for known, comment in parts:
        text += comment
        text = with_entry(text, known, {"timeout": "1h"} if known.startswith(("s", "job:a")) else RETRY)
    present = address in entries(text)
    new = with_entry(text, address, {"timeout": "9h"} if address.startswith(("s", "job:a")) else {"retry": {"attempts": 9}})
    assert set(entries(new)) == set(entries(text)) | {address}
    gone = without_entry(new, address)
    assert address not in entries(gone)
    if not present:
        assert gone == text


def test_the_schema_file_is_fresh_and_accepts_what_is_accepted() -> None:
    path = Path(__file__).parents[2] / TUNING_FILE
    assert path.read_text(encoding="utf-8") == schema_text(tuning_schema()), "Run: python -m workflows_pkg.spec.schema"
    examples = tuning_schema()["examples"]
    for example in examples:
        assert parse_tuning(json.dumps(example, indent=1), "t.json").entries
