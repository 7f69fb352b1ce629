"""What is learned, kept or sent between steps is figures and texts: no code of the project loads a format that can execute."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXECUTABLE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "skops", "torch"}
"""Modules whose files run code when they are loaded, or are refused only by a list of what is known to be bad."""
LOADERS = {"read_pickle", "to_pickle", "mem_io_manager", "fs_io_manager"}
"""Functions that do so behind another name; Dagster's default storage of outputs is a pickle."""
CODE = [path for folder in ("workflows_pkg", "assets", "resources") for path in sorted((ROOT / folder).rglob("*.py"))]


def found(source: str) -> Iterator[str]:
    """What in a module could load something that executes, as `line: what`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [one.name for one in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"{node.lineno}: import of {name}" for name in modules if name.split(".")[0] in EXECUTABLE)
            yield from (f"{node.lineno}: import of {name}" for name in names if name in LOADERS)
        elif isinstance(node, ast.Attribute) and node.attr in LOADERS:
            yield f"{node.lineno}: {node.attr}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is(node.value, False):
            yield f"{node.value.lineno}: allow_pickle"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec", "__import__"}:
            yield f"{node.lineno}: {node.func.id}"


def _is(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_module_loads_what_executes() -> None:
    assert len(CODE) > 200
    assert [f"{path.relative_to(ROOT)}:{place}" for path in CODE for place in found(path.read_text())] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def load():\n    from joblib import load",
        "import numpy as np\nnp.load('x.npy', allow_pickle=True)",
        "import numpy as np\nnp.load('x.npy', allow_pickle=bool(1))",
        "import pandas as pd\npd.read_pickle('x')",
        "from pandas import read_pickle as read",
        "eval('1')",
        "import skops.io",
    ],
)
def test_control_each_way_in_is_seen(source: str) -> None:
    assert len(list(found(source))) == 1


def test_what_is_harmless_is_not_taken_for_it() -> None:
    assert list(found("import json\nnp.load('x', allow_pickle=False)\nmodel.eval()\nconnection.execute('x')")) == []
