"""What does the reference say about step kinds? A page made from the kinds themselves.

`python -m workflows_pkg.steps.reference` writes docs/reference/step-kinds.md below the working directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from workflows_pkg.steps.contract import FromSecret, Literally, StepKind, TakesSecret
from workflows_pkg.steps.discovery import BUILT_IN

PAGE = Path("docs/reference/step-kinds.md")
_INTRODUCTION = """# Step kinds

What a workflow's steps can do: a step names its kind under `uses` and gives the parameters under `with`.
This page is made from the kinds (`python -m workflows_pkg.steps.reference`).
"""


def step_reference() -> str:
    """The reference of all built-in step kinds as Markdown."""
    return "\n".join([_INTRODUCTION, *(_kind(kind) for kind in BUILT_IN)])


def _kind(kind: StepKind[Any]) -> str:
    lines = [f"## {kind.name}", "", kind.summary, ""]
    if kind.extra:
        lines += [f"Needs the extra `{kind.extra}`: `pip install 'agentic-workflows[{kind.extra}]'`.", ""]
    lines += ["| parameter | value | default | meaning |", "|---|---|---|---|"]
    properties = kind.params.model_json_schema(by_alias=True)["properties"]
    for name, field in kind.params.model_fields.items():
        shown = field.alias or name
        default = "required" if field.is_required() else _default(properties[shown].get("default"))
        remarks = [field.description or ""]
        for mark in field.metadata:
            if isinstance(mark, Literally):
                remarks.append(f"Takes no `${{{{ … }}}}`: {mark.instead}.")
            if isinstance(mark, FromSecret):
                remarks.append("Takes only `${{ secrets.… }}`.")
            if isinstance(mark, TakesSecret):
                remarks.append("Takes `${{ secrets.… }}`.")
        lines.append(f"| `{shown}` | {_type(properties[shown])} | {default} | {_cell(' '.join(remarks))} |")
    lines += ["", "```yaml", f"uses: {kind.name}", "with:", *_yaml(kind.example), "```", ""]
    return "\n".join(lines)


def _default(value: object) -> str:
    return "none" if value in (None, {}, [], "") else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(schema: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(choice) for choice in schema["anyOf"] if choice.get("type") != "null"))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_type(cast('dict[str, Any]', values))}" if isinstance(values, dict) else "mapping"
    if "examples" in schema:
        return "duration"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    return words.get(schema.get("type", ""), "any")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _yaml(example: object) -> list[str]:
    """The example's lines. JSON texts are YAML, so values need no YAML library, which belongs to `spec`."""
    return [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in cast("dict[str, object]", example).items()]


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(step_reference(), encoding="utf-8")
