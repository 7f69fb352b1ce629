"""Functions are called only from granted modules, and mistakes in a call are named before anything runs."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from workflows_pkg.errors import CodeProblem, Refused
from workflows_pkg.security.allow import Allow
from workflows_pkg.steps.contract import PartitionSlice
from workflows_pkg.steps.python_call import PythonCall, run

SOURCE = """
import functools
import os
from subprocess import run as shell
from os import system
import pandas as pd

CONSTANT = 3

def double(clean, factor=2):
    return clean.assign(a=clean["a"] * factor)

def day(partition):
    return partition.key if partition else None

def counts(used):
    used("output_tokens", 7)

def switch(used=False):
    return used

def both(one, two, *, three=3):
    return [one, two, three]

def anything(**options):
    return options

def only_position(value, /):
    return value

def fails():
    raise LookupError("own error")

def gives(what):
    return {"object": object(), "series": pd.Series([1]), "set": {1}}[what]

def _private():
    return 1

async def later():
    return 1

def many():
    yield 1

@functools.wraps(system)
def wrapped(*args):
    return 1

class Thing:
    pass
"""


@pytest.fixture
def granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Allow:
    package = tmp_path / "flights_demo"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "scores.py").write_text(SOURCE)
    (package / "broken.py").write_text("import no_such_module_here\n")
    (package / "loud.py").write_text("raise RuntimeError('not today')\n")
    (tmp_path / "outside_demo.py").write_text("raise AssertionError('imported without a grant')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Allow(modules=("flights_demo",))
    for name in [name for name in sys.modules if name.startswith(("flights_demo", "outside_demo"))]:
        del sys.modules[name]


@pytest.fixture
def call(make_context, granted):
    def call(function, args=None, allow=granted, **fields):
        return run(make_context(allow=allow, **fields), PythonCall(call=function, args=args or {}))

    return call


def test_inputs_partition_and_args_arrive_by_parameter_name(call):
    table = pd.DataFrame({"a": [1, 2]})
    result = call("flights_demo.scores:double", {"factor": 3}, inputs={"clean": table, "other": 1})
    assert result["a"].tolist() == [3, 6]
    start = datetime(2013, 1, 1, tzinfo=UTC)
    assert call("flights_demo.scores:day", partition=PartitionSlice("2013-01-01", start, start)) == "2013-01-01"
    assert call("flights_demo.scores:day") is None
    assert call("flights_demo.scores:anything", {"x": 1}, inputs={"clean": 1}) == {"x": 1}


def test_a_module_without_a_grant_is_refused_before_it_is_imported(call):
    with pytest.raises(Refused, match=r"'outside_demo' may not be called. This code location grants: flights_demo"):
        call("outside_demo:anything")
    assert "outside_demo" not in sys.modules
    with pytest.raises(Refused, match="grants no modules"):
        call("flights_demo.scores:day", allow=Allow())
    with pytest.raises(Refused):
        call("flights_demo_evil:f")
    with pytest.raises(Refused):
        call("os:system", {"command": "true"})


@pytest.mark.parametrize("name", ["system", "shell", "wrapped"])
def test_what_a_granted_module_imported_for_itself_is_not_offered(call, name):
    with pytest.raises((Refused, CodeProblem), match=r"may not be called|not a plain function"):
        call(f"flights_demo.scores:{name}")


@pytest.mark.parametrize(
    "text",
    [
        "flights_demo.scores:os.system",
        "flights_demo.scores.os:system",
        "flights_demo.scores:_private",
        "flights_demo.scores:__class__",
        "flights_demo.__init__:x",
        "flights_demo.scores",
        "flights_demo.scores:",
        ":double",
        "flights_demo..scores:double",
        "../flights_demo:double",
        "flights_demo/scores:double",
        "flights_demo.scores:double()",
        "flights_demo.scores:double\n",
        "flights_demo.scores:double;import os",
        "flights_demo.scores:(lambda:1)",
        "ﬂights_demo.scores:double",
        "flights_demo.scores:{double}",
        "__main__:main",
        "builtins:exec",
    ],
)
def test_only_plain_public_names_can_be_written(call, text):
    with pytest.raises((Refused, CodeProblem)):
        call(text)


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        ("flights_demo.score:day", {}, "There is no module 'flights_demo.score'"),
        ("flights_demo.scores:duoble", {}, "has no function 'duoble'. Did you mean 'double'?"),
        ("flights_demo.scores:CONSTANT", {}, "is an int, not a plain function"),
        ("flights_demo.scores:Thing", {}, "is a type, not a plain function"),
        ("flights_demo.scores:later", {}, "is a coroutine or a generator"),
        ("flights_demo.scores:many", {}, "is a coroutine or a generator"),
        ("flights_demo.broken:f", {}, "cannot be imported: No module named 'no_such_module_here'"),
        ("flights_demo.loud:f", {}, "cannot be imported: RuntimeError: not today"),
        ("flights_demo.scores:both", {"one": 1}, "missing a required argument: 'two'"),
        ("flights_demo.scores:both", {"one": 1, "two": 2, "thre": 3}, "Did you mean 'three'?"),
        ("flights_demo.scores:only_position", {"value": 1}, "positional only"),
        ("flights_demo.scores:gives", {"what": "object"}, "gave object; a step gives a DataFrame, a JSON value or bytes"),
        ("flights_demo.scores:gives", {"what": "series"}, "For a Series use to_frame() or to_list()."),
        ("flights_demo.scores:gives", {"what": "set"}, "gave set"),
    ],
)
def test_mistakes_are_named(call, function, args, message):
    with pytest.raises(CodeProblem) as caught:
        call(function, args)
    assert message.replace("positional only", "positional") in str(caught.value)
    assert caught.value.cause == "code"


def test_an_argument_given_twice_is_named(call):
    with pytest.raises(CodeProblem, match="given by args and by the needed step 'one'"):
        call("flights_demo.scores:both", {"one": 1, "two": 2}, inputs={"one": 5})


def test_the_function_s_own_errors_pass_unchanged(call):
    with pytest.raises(LookupError, match="own error"):
        call("flights_demo.scores:fails")


def test_used_is_given_to_a_function_that_asks_for_it(call):
    counted = []
    call("flights_demo.scores:counts", used=lambda figure, count: counted.append((figure, count)))
    assert counted == [("output_tokens", 7)]
    assert call("flights_demo.scores:switch", used=counted.append) is False, "a switch of its own is left as it is"
