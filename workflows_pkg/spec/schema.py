"""Which JSON Schema describes a workflow file, and which a tuning file? For editors that complete and check while an author types.

`python -m workflows_pkg.spec.schema` writes them to docs/reference/workflow.schema.json and docs/reference/tuning.schema.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workflows_pkg.spec.model import Workflow
from workflows_pkg.spec.tuning import ADDRESS, Entry

FILE = Path("docs/reference/workflow.schema.json")
TUNING_FILE = Path("docs/reference/tuning.schema.json")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a workflow. Step kinds have their own models for `with`, which it does not know."""
    schema = Workflow.model_json_schema(by_alias=True)
    return {"$schema": _DIALECT, **schema}


def tuning_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a tuning file: entries by address. Which field fits which sort of address it does not know."""
    entry = Entry.model_json_schema(by_alias=True)
    parts = entry.pop("$defs", {})
    return {
        "$schema": _DIALECT,
        "title": "Tuning",
        "type": "object",
        "patternProperties": {ADDRESS: {"$ref": "#/$defs/Entry"}},
        "additionalProperties": False,
        "$defs": {"Entry": entry, **parts},
        "examples": [{"job:nightly": {"timeout": "2h", "retry": {"attempts": 3, "delay": "10s"}}}],
    }


def schema_text(schema: dict[str, Any] | None = None) -> str:
    """The text of a schema's file, with a newline at its end; left out: the workflow's."""
    return json.dumps(schema or json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(schema_text(), encoding="utf-8")
    TUNING_FILE.write_text(schema_text(tuning_schema()), encoding="utf-8")
