"""Equal meaning gives equal digests and no difference; another meaning gives both."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from workflows_pkg.errors import SpecError
from workflows_pkg.spec.canonical import canonical_json, digest, to_dict, to_yaml
from workflows_pkg.spec.difference import difference
from workflows_pkg.spec.loader import load_text, load_value
from workflows_pkg.spec.model import Partitions, Retry, Step, Window, Workflow
from workflows_pkg.spec.source import forbidden_character, plain_value

BASE = """
workflow: flights
schedule: {cron: "0 6 * * *"}
steps:
  load: {uses: data.read_table, with: {source: flights}, produces: flights/raw, checks: [{unique: [a, b]}]}
  clean: {uses: data.sql, needs: [load], with: {query: select 1}}
  score:
    uses: data.sql
    needs: [load, clean]
    with: {query: select 1, params: {a: 1}}
    retry: {attempts: 3, on: [A, B]}
    timeout: 10s
"""


def base(kinds, *replacements: tuple[str, str]) -> Workflow:
    text = BASE
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return load_text(text, file="x.yaml", kinds=kinds)


SAME = {
    "spelled-out defaults": (("retry: {attempts: 3,", "retry: {attempts: 3, delay: 1s, backoff: constant, jitter: none,"),),
    "spelled-out null": (("workflow: flights", "workflow: flights\nowner: null\npartitions: ~"),),
    "another way to write a duration": (("10s", "0m10000ms"),),
    "order of needs": (("[load, clean]", "[clean, load]"),),
    "order of error names": (("[A, B]", "[B, A]"),),
    "order of columns": (("[a, b]", "[b, a]"),),
    "time zone spelled out": (('"0 6 * * *"', '"0 6 * * *", timezone: UTC, run: next_missing_partition'),),
}
OTHER = {
    "a parameter": ((("{a: 1}", "{a: 2}"),), "steps.score.with.params.a: 1 -> 2"),
    "truth is not one": ((("{a: 1}", "{a: true}"),), "steps.score.with.params.a: 1 -> true"),
    "a number is not its text": ((("{a: 1}", "{a: '1'}"),), "steps.score.with.params.a: 1 -> 1"),
    "a default is left": (
        (("attempts: 3,", "attempts: 3, delay: 300ms,"),),
        "steps.score.retry.delay: 1s -> 300ms",
    ),
    "a field is added": (
        (("timeout: 10s", "timeout: 10s\n    produces: flights/score"),),
        "steps.score.produces: added flights/score",
    ),
    "a field is removed": ((("    timeout: 10s\n", ""),), "steps.score.timeout: removed 10s"),
    "a need is removed": ((("needs: [load, clean]", "needs: [clean]"),), 'steps.score.needs: ["clean", "load"] -> ["clean"]'),
    "a part is added": (
        (("workflow: flights", "workflow: flights\npartitions: {daily: {start: 2013-01-01}}"),),
        'partitions: added {"daily": {"start": "2013-01-01"}}',
    ),
    "a schedule's zone": ((('"0 6 * * *"', '"0 6 * * *", timezone: Europe/Berlin'),), "schedule.timezone: UTC -> Europe/Berlin"),
}


@pytest.mark.parametrize("name", SAME)
def test_equal_meaning_gives_equal_digest_and_no_difference(name, kinds):
    old, new = base(kinds), base(kinds, *SAME[name])
    assert digest(old) == digest(new)
    assert difference(old, new) == ()


def test_order_of_steps_means_nothing(kinds):
    value = to_dict(base(kinds))
    turned = {**value, "steps": dict(reversed(value["steps"].items()))}
    assert digest(load_value(turned, kinds=kinds)) == digest(base(kinds))


@pytest.mark.parametrize("name", OTHER)
def test_other_meaning_gives_another_digest_and_is_named(name, kinds):
    replacements, expected = OTHER[name]
    old, new = base(kinds), base(kinds, *replacements)
    assert digest(old) != digest(new)
    assert [str(change) for change in difference(old, new)] == [expected]
    assert len(difference(new, old)) == 1


def test_steps_added_and_removed_are_whole(kinds):
    old = base(kinds)
    new = base(kinds, ("  clean: {", "  tidy: {"), ("[load, clean]", "[load, tidy]"))
    assert [(change.path, change.kind) for change in difference(old, new)] == [
        ("steps.clean", "removed"),
        ("steps.score.needs", "changed"),
        ("steps.tidy", "added"),
    ]


def test_digest_is_pinned(kinds):
    """A digest names a version for good: a change here is a change of every recorded version's name."""
    assert canonical_json(base(kinds, ("    timeout: 10s\n", ""))) == (
        '{"schedule":{"cron":"0 6 * * *"},"steps":{"clean":{"needs":["load"],"uses":"data.sql","with":{"query":"select 1"}},'
        '"load":{"checks":[{"unique":["a","b"]}],"produces":"flights/raw","uses":"data.read_table","with":{"source":"flights"}},'
        '"score":{"needs":["clean","load"],"retry":{"attempts":3,"on":["A","B"]},"uses":"data.sql",'
        '"with":{"params":{"a":1},"query":"select 1"}}},"workflow":"flights"}'
    )
    assert digest(base(kinds)) == "296a35dc2021d68c"


def test_python_and_yaml_make_the_same_workflow(kinds):
    in_python = Workflow(
        workflow="flights",
        partitions=Partitions(daily=Window(start=date(2013, 1, 1))),
        steps={
            "clean": Step(uses="data.sql", with_={"query": "select 1"}, retry=Retry(attempts=2, delay=timedelta(seconds=90))),
        },
    )
    in_yaml = load_text(
        "workflow: flights\npartitions: {daily: {start: 2013-01-01}}\n"
        "steps: {clean: {uses: data.sql, with: {query: select 1}, retry: {attempts: 2, delay: 1m30s}}}\n",
        file="x.yaml",
        kinds=kinds,
    )
    as_value = load_value(
        {
            "workflow": "flights",
            "partitions": {"daily": {"start": date(2013, 1, 1)}},
            "steps": {
                "clean": {
                    "uses": "data.sql",
                    "with": {"query": "select 1"},
                    "retry": {"attempts": 2, "delay": timedelta(seconds=90)},
                }
            },
        },
        kinds=kinds,
    )
    assert in_python == in_yaml == as_value
    assert len({digest(in_python), digest(in_yaml), digest(as_value)}) == 1


# What authors may write, over every field; free text is any text that a file may hold.
TEXT = st.text(max_size=20).filter(lambda text: "${{" not in text and forbidden_character(text) is None)
PLAIN = "no on true null ~ 1 -1 1.5 1e5 1_000 0x1F 012 12:30:45 2013-01-01 .nan .inf = << [a {a &a *a !a %a @a `a | > ? - ' \""
SPACED = ["", " ", "a: b", "- a", "# a", " a", "a ", "a\nb", "a \nb", "a\n", "\n", "\n a", "\ta", "a\r\nb", "a #b"]
TRICKY = st.sampled_from([*re.split(" ", PLAIN), *SPACED])
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT | TRICKY
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | TRICKY, inner, max_size=3), max_leaves=6
)
PARTITIONS = st.sampled_from([None, {"daily": {"start": date(2013, 1, 1)}}, {"monthly": {"start": "2013-01-01"}}])
RETRIES = st.builds(
    lambda attempts, delay, on: {"attempts": attempts, "delay": delay, "on": on},
    st.integers(1, 20),
    st.integers(0, 10**9).map(lambda milliseconds: timedelta(milliseconds=milliseconds)),
    st.permutations(["A", "B"]),
)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "done")
DURATIONS = st.integers(1, 10**9).map(lambda milliseconds: timedelta(milliseconds=milliseconds))


@st.composite
def workflow_values(draw) -> dict:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    steps = {}
    for index, name in enumerate(names):
        step: dict = {"uses": "any", "with": draw(st.dictionaries(TEXT | TRICKY, VALUES, max_size=3))}
        step["needs"] = draw(st.lists(st.sampled_from(names[:index]), unique=True)) if index else []
        if draw(st.booleans()):
            step["produces"] = f"out/{name}"
            step["checks"] = draw(st.sampled_from([[], [{"rows": {"min": 1}}], [{"not_null": ["b", "a"]}, {"unique": ["a"]}]]))
        if draw(st.booleans()):
            step["retry"] = {
                "attempts": draw(st.integers(1, 20)),
                "delay": draw(DURATIONS),
                "on": draw(st.permutations(["A", "B"])),
            }
        step["timeout"] = draw(st.none() | st.just("auto") | DURATIONS)
        step["if"] = draw(st.none() | st.just("${{ run.id != 'a' }}"))
        steps[name] = step
    return {
        "workflow": draw(NAMES),
        "description": draw(TEXT | TRICKY),
        "owner": draw(st.none() | TEXT | TRICKY),
        "partitions": draw(PARTITIONS),
        "steps": steps,
    }


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


def check_every_way_in(value: dict) -> None:
    kinds = {"any": Anything}
    workflow = load_value(value, kinds=kinds)
    again = [
        load_value(to_dict(workflow), kinds=kinds),
        load_text(to_yaml(workflow), file="x.yaml", kinds=kinds),
        load_text(json.dumps(to_dict(workflow)), file="x.json", kinds=kinds),
        load_text(json.dumps(to_dict(workflow), indent=1, ensure_ascii=False), file="x.json", kinds=kinds),
    ]
    for other in again:
        assert other == workflow
        assert digest(other) == digest(workflow)
        assert difference(workflow, other) == ()


@settings(max_examples=60, deadline=None)
@given(workflow_values())
def test_any_workflow_survives_yaml_json_and_python_with_one_digest(value):
    check_every_way_in(value)


@pytest.mark.long
@settings(max_examples=1000, deadline=None)
@given(workflow_values())
def test_a_thousand_workflows_survive_yaml_json_and_python_with_one_digest(value):
    check_every_way_in(value)


@pytest.mark.parametrize("text", [*re.split(" ", PLAIN), *SPACED])
def test_text_that_looks_like_something_else_stays_text_in_yaml(text):
    value = {"workflow": "a", "owner": text, "steps": {"a": {"uses": "any", "with": {text: [text]}}}}
    check_every_way_in(value)


def test_control_yaml_of_the_usual_dumper_changes_meaning():
    """Why `to_yaml` quotes on its own: the usual dumper writes '1e5' without quotes, which reads back as a number here."""
    assert yaml.safe_dump("1e5").splitlines()[0] == "1e5"
    assert plain_value("1e5") == 100000.0


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"with": {"query": "q", "params": {"a": float("nan")}}}, "steps.a.with.params.a: the number nan (nan) has no form"),
        ({"with": {"query": "q", "params": {"a": 2**63}}}, "steps.a.with.params.a: the number 9223372036854775808"),
        ({"with": {"query": "q", "params": {"a": {1}}}}, "steps.a.with.params.a: a set ({1}) has no form in a workflow file."),
        ({"with": {"query": "a\0b"}}, "steps.a.with.query: character U+0000 is refused"),
        ({"with": {3: "q"}}, "steps.a.with: expected text as a key, found the number 3."),
        (
            {"with": {"query": "q"}, "retry": {"attempts": "x"}},
            "steps.a.retry.attempts: expected a whole number, found text 'x'.",
        ),
    ],
)
def test_wrong_values_of_python_are_refused_with_their_path(step, message, kinds):
    with pytest.raises(SpecError) as caught:
        load_value({"workflow": "a", "steps": {"a": {"uses": "data.sql", **step}}}, kinds=kinds)
    assert f"<python>: {message}" in str(caught.value)
