"""Folders, deferred parameters, places of mistakes, and workflows built in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from workflows_pkg.errors import SpecError
from workflows_pkg.spec.loader import load_folder, load_text
from workflows_pkg.spec.model import Check, RowCount, Step, Workflow
from workflows_pkg.spec.schema import FILE, schema_text

HEAD = "workflow: a\nsteps:\n  load: {uses: data.sql, with: {query: select 1}}\n"
ARGUMENTS = "  b:\n    uses: python\n    with:\n      call: 'a:b'\n      arguments:\n"


def said(text: str, kinds, file: str = "x.yaml") -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_text(text, file=file, kinds=kinds)
    return [str(problem) for problem in caught.value.problems]


def test_one_bad_file_never_hides_the_others(tmp_path, kinds):
    step = "steps:\n  s: {uses: data.sql, with: {query: select 1}, produces: out/%s}\n"
    (tmp_path / "a.yaml").write_text("workflow: first\n" + step % "a")
    (tmp_path / "b.yaml").write_text("workflow: [\n")
    (tmp_path / "c.json").write_text('{"workflow": "third"}')
    (tmp_path / "d.yml").write_text("workflow: first\n" + step % "d")
    (tmp_path / "e.yaml").write_text("workflow: fifth\n" + step % "a")
    (tmp_path / "f.yaml").write_text("workflow: sixth\n" + step % "f")
    (tmp_path / ".hidden.yaml").write_text("[")
    (tmp_path / "notes.txt").write_text("[")
    (tmp_path / "g.yaml").mkdir()
    loaded = load_folder(tmp_path, kinds)
    assert [path.name for path, _ in loaded.workflows] == ["a.yaml", "f.yaml"]
    assert [str(problem).replace(f"{tmp_path}/", "") for problem in loaded.problems] == [
        "b.yaml:2:1: expected a value here.",
        "c.json:1:1: the workflow: the field 'steps' is missing. steps: The steps by name.",
        "d.yml:1:11: the workflow name 'first' is taken by a.yaml. Choose another name.",
        "e.yaml:3:58: the asset 'out/a' is produced by a.yaml already. An asset has one producer.",
        "g.yaml:1:1: this is not a file. Name a workflow file, such as workflows/daily.yaml.",
    ]


def test_missing_folder_is_one_clear_error(tmp_path, kinds):
    with pytest.raises(SpecError, match=r"nowhere: this folder cannot be read: No such file or directory\."):
        load_folder(tmp_path / "nowhere", kinds)


def test_parameter_that_is_an_expression_is_judged_when_it_has_a_value(kinds):
    text = HEAD + '  b: {uses: data.sql, with: {query: q, limit: "${{ run.id }}", columns: ["${{ run.id }}", 3]}}\n'
    assert said(text, kinds) == [
        'x.yaml:4:91: steps.b.with.columns[1]: expected text, found the number 3. Put it in quotes: "3".'
    ]


def test_control_same_parameter_as_plain_text_is_refused(kinds):
    text = HEAD + "  b: {uses: data.sql, with: {query: q, limit: run.id}}\n"
    assert said(text, kinds) == ["x.yaml:4:47: steps.b.with.limit: expected a whole number, found text 'run.id'."]


def test_unknown_and_missing_parameters_are_not_deferred(kinds):
    text = HEAD + '  b: {uses: data.sql, with: {qery: "${{ run.id }}"}}\n'
    assert [message.split(": ", 1)[1] for message in said(text, kinds)] == [
        "steps.b.with: the parameter 'query' is missing. query: SQL text.",
        "steps.b.with: there is no parameter 'qery'. Did you mean 'query'?",
    ]


def test_branches_of_a_union_are_one_mistake(kinds):
    text = HEAD + "  b: {uses: http, with: {url: 'https://example.org', expect: many}}\n"
    assert said(text, kinds) == [
        "x.yaml:4:62: steps.b.with.expect: expected a whole number, or a list, found text 'many'. Write [many]."
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("  b:\n    uses: data.sql\n    if: ${{ run.id == a }}\n", "6:23"),
        ("  b:\n    uses: data.sql\n    if: '${{ run.id == ''x'' or a }}'\n", "6:33"),
        ("  b:\n    uses: data.sql\n    if: \"${{ run.id == '\\u00e9' or a }}\"\n", "6:10"),
        ("  b:\n    uses: data.sql\n    if: >-\n      ${{ run.id\n      == a }}\n", "7:7"),
        (
            ARGUMENTS + "        x: [1, 'é😀 ${{ run.id }} ${{ a }}']\n",
            "9:38",
        ),
        (
            ARGUMENTS + "        x: |\n          ok\n          no ${{ a }}\n",
            "11:18",
        ),
    ],
)
def test_mistake_in_an_expression_has_its_own_place(text, place, kinds):
    """Where an escape or a fold makes the expression differ from the file, the place is where it begins."""
    (message,) = [message for message in said(HEAD + text, kinds) if "'a' is not known" in message]
    assert message.startswith(f"x.yaml:{place}: ")


def test_json_places_count_the_file_not_the_joined_characters(kinds):
    text = '{"owner": "\\ud83d\\ude00\\ud83d\\ude00", "x": 1, "workflow": "a", "steps": {}}'
    assert said(text, kinds, "x.json")[0].startswith(f"x.json:1:{text.index(chr(34) + 'x') + 1}: ")


def test_workflow_built_in_python_is_checked_as_well():
    step = Step(uses="data.sql", needs=("b",))
    with pytest.raises(ValidationError, match="needs 'b', which is not a step here"):
        Workflow(workflow="a", steps={"a": step})
    with pytest.raises(ValidationError, match="a -> b -> a"):
        Workflow(workflow="a", steps={"a": step, "b": Step(uses="data.sql", needs=("a",))})
    with pytest.raises(ValidationError, match="exactly one of"):
        Check(rows=RowCount(min=1), unique=("a",))


def test_control_without_its_last_validator_a_workflow_takes_any_needs():
    assert Workflow.model_construct(workflow="a", steps={"a": Step(uses="data.sql", needs=("b",))}).steps["a"].needs == ("b",)


def test_json_schema_in_the_documentation_is_fresh():
    path = Path(__file__).parents[2] / FILE
    assert path.read_text(encoding="utf-8") == schema_text(), "Run: python -m workflows_pkg.spec.schema"
