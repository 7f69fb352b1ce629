"""Every built-in kind keeps the contract, and the contract test sees what breaks it."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from pydantic import BaseModel, ConfigDict, Field

from workflows_pkg.errors import DataProblem, SpecError
from workflows_pkg.security.allow import Allow
from workflows_pkg.spec.loader import load_value
from workflows_pkg.steps.conformance import check_run, check_step_kind
from workflows_pkg.steps.contract import FromSecret, Parameters, StepKind, TakesSecret
from workflows_pkg.steps.discovery import BUILT_IN
from workflows_pkg.steps.reference import PAGE, step_reference

NONSENSE = [
    None,
    "",
    "x",
    0,
    -1,
    1e308,
    [],
    {},
    ["a"],
    {"a": {"b": None}},
    "\0",
    "../..",
    "${{ x }}",
    "'; drop table t; --",
    b"x",
    True,
]


class Text(Parameters):
    text: str = Field("x", description="Some text.")


GOOD = StepKind("demo.good", "Gives back the text it is given.", Text, lambda context, params: params.text, {"text": "a"})


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
def test_built_in_kinds_keep_the_contract(kind):
    assert check_step_kind(kind) == []


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_built_in_kinds_answer_bad_input_with_step_errors(kind, make_context, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    (tmp_path / "t.csv").write_text("a\n1\n")
    table = pd.DataFrame({"a": [1]})
    for context in (
        make_context(inputs={"x": 1, "y": [{"a": 1}]}),
        make_context(inputs={"x": table}, allow=Allow(files=tmp_path, tables={"flights": "t.csv"})),
    ):
        assert check_run(kind, context, kind.example) == []
        for name, field in kind.params.model_fields.items():
            for value in NONSENSE:
                given = {**kind.example, field.alias or name: value}
                assert check_run(kind, context, given) == [], (name, value)


class Open(BaseModel):
    text: str = Field("x", description="Some text.")


class Silent(Parameters):
    text: str = "x"


class Unwritable(Parameters):
    call: Any = Field(None, description="Anything.")
    model_config = ConfigDict(arbitrary_types_allowed=True)
    table: pd.DataFrame | None = Field(None, description="A table.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Demo"}, "The name 'Demo' is not lower-case words"),
        ({"name": "demo..x"}, "The name"),
        ({"name": None}, "The name None"),
        ({"summary": "gives text"}, "The summary is not one sentence"),
        ({"summary": None}, "The summary is not one sentence"),
        ({"extra": "No Name"}, "extra is neither None"),
        ({"run": None}, "run is not a function"),
        ({"run": lambda context: None}, "run cannot be called"),
        ({"run": lambda context, params, more: None}, "run cannot be called"),
        ({"params": dict}, "params is not a pydantic model"),
        ({"params": Text(text="x")}, "params is not a pydantic model"),
        ({"params": Open}, "params accepts unknown fields"),
        ({"params": Silent}, "The parameter 'text' has no description"),
        ({"params": Unwritable, "example": {}}, "params has no JSON Schema"),
        ({"example": {"txt": "a"}}, "The example does not validate: txt"),
        ({"example": {"text": {1}}}, "cannot be written as YAML or JSON"),
        ({"example": None}, "The example is not a mapping"),
    ],
)
def test_each_breach_is_seen(change, words):
    problems = check_step_kind(replace(GOOD, **change))
    assert len(problems) == 1
    assert words in problems[0]


def test_coroutines_and_other_things_are_seen():
    async def later(context, params):
        return None

    assert "coroutine" in check_step_kind(replace(GOOD, run=later))[0]
    assert check_step_kind("x") == ["Expected a StepKind, found str."]
    assert check_step_kind(GOOD) == []


def raising(error):
    def run(context, params):
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (raising(KeyError("a")), "It raised KeyError"),
        (raising(DataProblem("")), "without a message"),
        (lambda context, params: object(), "Its output cannot be kept"),
        (lambda context, params: {"a": float("nan")}, "that JSON changes"),
        (lambda context, params: (1, 2), "that JSON changes"),
    ],
)
def test_breaches_of_a_run_are_seen(make_context, run, words):
    problems = check_run(replace(GOOD, run=run), make_context(), GOOD.example)
    assert len(problems) == 1
    assert words in problems[0]
    assert check_run(replace(GOOD, run=raising(DataProblem("no"))), make_context(), {}) == []


def test_secrets_are_taken_only_where_they_go_out_or_into_trusted_code():
    taking = {
        (kind.name, field.alias or name)
        for kind in BUILT_IN
        for name, field in kind.params.model_fields.items()
        if any(isinstance(mark, FromSecret | TakesSecret) for mark in field.metadata)
    }
    sent = {("http", name) for name in ("url", "headers", "query", "json")}
    assert taking == {*sent, ("python", "args"), ("communication.notify", "to")}


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
def test_every_other_parameter_refuses_a_secret(kind):
    for name, field in kind.params.model_fields.items():
        key = field.alias or name
        step = {"uses": kind.name, "with": {**kind.example, key: "${{ secrets.tok }}"}}
        taking = any(isinstance(mark, FromSecret | TakesSecret) for mark in field.metadata)
        try:
            load_value({"workflow": "w", "steps": {"s": step}}, kinds={kind.name: kind.params})
            refused = False
        except SpecError as error:
            refused = "refused here" in str(error)
        assert refused is not taking, key


def test_the_reference_is_fresh_and_complete():
    page = step_reference()
    assert PAGE.read_text(encoding="utf-8") == page, "run: python -m workflows_pkg.steps.reference"
    for kind in BUILT_IN:
        assert f"\n## {kind.name}\n" in page
        for name, field in kind.params.model_fields.items():
            assert f"| `{field.alias or name}` |" in page
