"""The language of `${{ }}` is closed, typed, and says what is wrong with a text or a value."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows_pkg.errors import DataProblem, SetupError, WorkflowsError
from workflows_pkg.spec.expressions import (
    Constant,
    ExpressionError,
    Operation,
    Reference,
    evaluate,
    parse,
    references,
    resolve,
    static_type,
)

SCOPE = {
    "partition": {"key": "2013-01-31", "start": date(2013, 1, 31), "end": date(2013, 2, 1), "date": "2013-01-31"},
    "steps": {"score": {"late_share": 0.5, "rows": 3, "late": True, "none": None, "list": [1]}, "count": 7, "skipped": None},
    "secrets": {"channel": "mailto://ops"},
    "run": {"id": "r1"},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("null", None),
        ("-12", -12),
        ("1.5e3", 1500.0),
        ("'it''s'", "it's"),
        ("''", ""),
        ("partition.key", "2013-01-31"),
        ("partition.start == '2013-01-31'", True),
        ("steps.score.late_share > 0.3", True),
        ("steps.score.rows == 3.0", True),
        ("steps.count >= 7 and steps.count <= 7", True),
        ("steps.score.none == null", True),
        ("steps.score.rows != null", True),
        ("not steps.score.late", False),
        ("not not true", True),
        ("true or false and false", True),
        ("(true or false) and false", False),
        ("not true == false", True),
        ("'a' < 'b'", True),
        ("${{ run.id }}", "r1"),
        ("${{run.id=='r1'}}", True),
        ("\n run.id \t", "r1"),
    ],
)
def test_value_of_an_expression(text, value):
    found = evaluate(text, SCOPE)
    assert found == value
    assert type(found) is type(value)


def test_what_is_not_needed_is_not_looked_up():
    assert evaluate("false and steps.absent.x == 1", SCOPE) is False
    assert evaluate("true or steps.absent.x == 1", SCOPE) is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "steps.score.lat_share",
            "has no field 'lat_share'. Did you mean 'late_share'? Known: late, late_share, list",
        ),
        ("steps.scor.rows", "there is no step output 'scor' here. Did you mean 'score'?"),
        ("steps.count.rows", "the output of step 'count' has no fields; it is a number."),
        ("steps.skipped.rows", "the output of step 'skipped' has no fields; it is nothing."),
        ("secrets.chanel", "there is no secret 'chanel' here."),
        ("sensor.file", "'sensor.file' has no value in this run."),
        ("failure.step == 'a'", "'failure.step' has no value in this run."),
        ("steps.score.rows > '3'", "'>' cannot compare a number (steps.score.rows) with text. Both sides need the same type."),
        ("steps.score.late > false", "cannot compare true or false"),
        ("steps.score.list == 1", "cannot compare a list (steps.score.list) with a number."),
        ("steps.score.none < 1", "cannot compare null"),
        ("steps.score.rows and true", "'and' expects true or false, found a number (steps.score.rows)."),
        ("not steps.score.rows", "'not' expects true or false"),
    ],
)
def test_value_that_is_missing_or_unfit_is_said(text, message):
    with pytest.raises(DataProblem) as caught:
        evaluate(text, SCOPE)
    assert message in str(caught.value)


def test_secret_is_never_quoted():
    with pytest.raises(DataProblem) as caught:
        evaluate("secrets.channel == steps.count", SCOPE)
    assert "ops" not in str(caught.value)


def test_error_of_a_lazy_root_passes_through():
    class Locked(dict):
        def __contains__(self, name):
            return True

        def __getitem__(self, name):
            raise SetupError("the secret store is locked.")

    with pytest.raises(SetupError, match="locked"):
        evaluate("secrets.a", {"secrets": Locked(a=1)})


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("run.id == 'a' && true", 14),
        ("${{ run.id || true }}", 11),
        ("a b", 0),
        ("run.id run.id", 7),
        ("1 < 2 < 3", 6),
        ("(true", 0),
        ("true)", 4),
        ("run.id ==", 9),
        ("", 0),
        ("steps.a.", 7),
        ("steps..a", 5),
        ("run .id", 4),
        ("1.", 0),
        ("1_000", 0),
        ("0x1F", 0),
        ("99999999999999999999", 0),
        ("1e999", 0),
        ("'a", 0),
        ('"a"', 0),
        ("a.__class__", 0),
        ("steps.a.b.__class__", 0),
        ("run.id.upper()", 0),
        ("__import__('os')", 0),
        ("steps[0]", 5),
        ("lambda", 0),
        ("{}", 0),
        ("run.id if true else 1", 7),
        ("run.id; run.id", 6),
        ("ｒｕｎ.id", 0),
        ("١", 0),
    ],
)
def test_text_outside_the_language_is_refused_at_its_place(text, offset):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert caught.value.offset == offset


def test_words_of_the_language_can_be_names_after_a_dot():
    assert references("steps.not.or == steps.true.null") == {Reference("steps", "not", "or"), Reference("steps", "true", "null")}


def test_tree_keeps_precedence():
    tree = parse("run.id == 'a' or not true and false")
    assert tree == Operation(
        "or",
        (
            Operation("==", (Reference("run", "id"), Constant("a"))),
            Operation("and", (Operation("not", (Constant(True),)), Constant(False))),
        ),
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1", "number"),
        ("run.id", "text"),
        ("steps.a.b", "unknown"),
        ("1 < 2", "boolean"),
        ("not steps.a", "boolean"),
        ("null", "null"),
    ],
)
def test_type_known_before_a_run(text, name):
    assert static_type(parse(text)) == name


@pytest.mark.parametrize("text", ["run.id > 3", "'a' and true", "not null", "true < false", "1 == 'a'", "null < 1"])
def test_types_that_never_fit_are_told_before_a_run(text):
    with pytest.raises(ExpressionError, match=r"compared with|expects true or false"):
        static_type(parse(text))


def test_resolve_keeps_types_and_writes_text_into_text():
    value = {
        "whole": "${{ steps.score.list }}",
        "number": "${{ steps.score.rows }}",
        "inside": ["${{ steps.score.late_share }} late: ${{ steps.score.late }}, ${{ steps.score.none }}", 3, None],
        "nested": {"key": ("${{ run.id }}",)},
        "plain": "no expression, {braces} and $dollars %s {0}",
    }
    assert resolve(value, SCOPE) == {
        "whole": [1],
        "number": 3,
        "inside": ["0.5 late: true, null", 3, None],
        "nested": {"key": ["r1"]},
        "plain": "no expression, {braces} and $dollars %s {0}",
    }
    assert value["number"] == "${{ steps.score.rows }}"


def test_resolve_refuses_a_list_inside_text():
    with pytest.raises(DataProblem, match="is a list, which cannot stand inside text"):
        resolve("rows: ${{ steps.score.list }}", SCOPE)


def test_resolved_text_is_not_resolved_again():
    scope = {"secrets": {"a": "${{ secrets.b }}", "b": "leaked"}}
    assert resolve("${{ secrets.a }}", scope) == "${{ secrets.b }}"
    assert resolve("x${{ secrets.a }}", scope) == "x${{ secrets.b }}"


@given(st.text(max_size=60) | st.text(alphabet="${}()'.<>=!&|an dortuesl01 ", max_size=60))
def test_any_text_parses_or_is_refused_with_a_place_inside_it(text):
    offset = 0
    try:
        static_type(parse(text))
        evaluate(text, SCOPE)
    except ExpressionError as error:
        offset = error.offset
    except WorkflowsError:
        pass
    assert 0 <= offset <= len(text)


@given(st.text(max_size=30))
def test_any_text_can_be_a_constant(text):
    quoted = "'" + text.replace("'", "''") + "'"
    assert evaluate(quoted, {}) == text
