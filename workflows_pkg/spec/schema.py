"""Which JSON Schema describes a workflow file? For editors that complete and check while an author types.

`python -m workflows_pkg.spec.schema` writes it to docs/reference/workflow.schema.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workflows_pkg.spec.model import Workflow

FILE = Path("docs/reference/workflow.schema.json")


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a workflow. Step kinds have their own models for `with`, which it does not know."""
    schema = Workflow.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The text of the file, with a newline at its end."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(schema_text(), encoding="utf-8")
