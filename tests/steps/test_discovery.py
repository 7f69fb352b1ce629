"""Plugins are found by entry point; a broken one is named and takes nothing else down."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import BaseModel

from workflows_pkg.steps.contract import Parameters, StepKind
from workflows_pkg.steps.discovery import BUILT_IN, GROUP, collect, discover

GOOD = """
from pydantic import Field
from workflows_pkg.steps.contract import Parameters, StepKind


class Shout(Parameters):
    text: str = Field(description="What to shout.")


def run(context, params):
    return params.text.upper()


SHOUT = StepKind("demo.shout", "Gives the text in capital letters.", Shout, run, {"text": "hello"})
OTHER = StepKind("demo.other", "Gives the text in capital letters.", Shout, run, {"text": "hello"})
STOLEN = StepKind("data.sql", "Gives the text in capital letters.", Shout, run, {"text": "hello"})
BAD = StepKind("demo.bad", "no sentence", Shout, lambda context: None, {"txt": "hello"})
WORDS = "not a step kind"
"""
BAD_ENTRIES = {
    "demo.missing": "no_such_module_of_a_plugin:X",
    "demo.loud": "plugin_loud:X",
    "demo.leaves": "plugin_leaves:X",
    "demo.syntax": "plugin_syntax:X",
    "demo.absent": "plugin_good:ABSENT",
    "demo.words": "plugin_good:WORDS",
    "data.sql": "plugin_good:STOLEN",
    "demo.bad": "plugin_good:BAD",
    "demo.misnamed": "plugin_good:OTHER",
}


def install(site: Path, distribution: str, entries: dict[str, str]) -> None:
    """What an installer leaves behind: a dist-info folder that names the entry points."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))


@pytest.fixture
def site(tmp_path):
    (tmp_path / "plugin_good.py").write_text(GOOD)
    (tmp_path / "plugin_loud.py").write_text("raise RuntimeError('not today')\n")
    (tmp_path / "plugin_leaves.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "plugin_syntax.py").write_text("def (:\n")
    return tmp_path


def discovered(site: Path) -> dict[str, dict[str, str] | list[str]]:
    program = (
        "import json; from workflows_pkg.steps.discovery import discover; found = discover();"
        "print(json.dumps({'kinds': sorted(found.kinds), 'params': sorted(found.params()),"
        " 'sql': found.kinds['data.sql'].params.__module__, 'broken': {p.name: p.reason for p in found.broken}}))"
    )
    path = f"import sys; sys.path.append({str(site)!r}); "
    done = subprocess.run([sys.executable, "-c", path + program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_an_installed_plugin_is_found_and_bad_ones_beside_it_are_named(site):
    install(site, "demo-shout", {"demo.shout": "plugin_good:SHOUT"})
    install(site, "a-bad-plugin", BAD_ENTRIES)
    found = discovered(site)
    built_in = {kind.name for kind in BUILT_IN}
    assert set(found["kinds"]) == built_in | {"demo.shout"} == set(found["params"])
    assert found["sql"] == "workflows_pkg.steps.data.sql"
    broken = {name.split("'")[1]: reason for name, reason in found["broken"].items()}
    assert set(broken) == set(BAD_ENTRIES)
    assert "of a-bad-plugin" in next(iter(found["broken"]))
    for name, words in {
        "demo.missing": "ModuleNotFoundError",
        "demo.loud": "RuntimeError: not today",
        "demo.leaves": "SystemExit",
        "demo.syntax": "SyntaxError",
        "demo.absent": "AttributeError",
        "demo.words": "Expected a StepKind, found str.",
        "data.sql": "the name 'data.sql' is taken by the built-in kinds.",
        "demo.bad": "The summary is not one sentence",
        "demo.misnamed": "called 'demo.misnamed', the step kind 'demo.other'",
    }.items():
        assert words in broken[name]


def test_the_same_plugins_loaded_plainly_do_stop_everything(site):
    """The control: without the care taken here, the first broken plugin ends the program."""
    install(site, "a-bad-plugin", BAD_ENTRIES)
    plain = f"import sys; sys.path.append({str(site)!r}); from importlib.metadata import entry_points;"
    plain += f"[e.load() for e in entry_points(group={GROUP!r})]"
    assert subprocess.run([sys.executable, "-c", plain], capture_output=True, check=False).returncode != 0


def test_of_two_plugins_with_one_name_the_first_keeps_it(site):
    install(site, "b-second", {"demo.shout": "plugin_good:SHOUT"})
    install(site, "a-first", {"demo.shout": "plugin_good:SHOUT"})
    found = discovered(site)
    assert "demo.shout" in found["kinds"]
    assert found["broken"] == {"'demo.shout' of b-second": "the name 'demo.shout' is taken by 'demo.shout' of a-first."}


def test_here_only_the_built_in_kinds_are_found():
    found = discover()
    assert list(found.kinds) == [kind.name for kind in BUILT_IN]
    assert found.broken == ()
    assert all(issubclass(params, BaseModel) for params in found.params().values())
    with pytest.raises(TypeError):
        found.kinds["x"] = BUILT_IN[0]


def test_an_entry_point_without_a_distribution_is_reported_too():
    found = collect([EntryPoint("demo.x", "json:nothing", GROUP)])
    assert [plugin.name for plugin in found.broken] == ["'demo.x'"]
    assert "Step kind plugin 'demo.x': cannot be loaded from json:nothing" in str(found.broken[0])


def test_a_plugin_whose_model_cannot_be_examined_is_reported(monkeypatch):
    class Odd(Parameters):
        @classmethod
        def model_json_schema(cls, *args, **kwargs):
            raise RecursionError("odd")

    kind = StepKind("demo.odd", "Does something very odd indeed.", Odd, lambda context, params: None, {})
    monkeypatch.setattr(EntryPoint, "load", lambda self: kind)
    found = collect([EntryPoint("demo.odd", "odd:KIND", GROUP)])
    assert "RecursionError: odd" in found.broken[0].reason


def test_looking_for_step_kinds_imports_no_optional_or_foreign_library():
    program = "import sys; from workflows_pkg.steps.discovery import discover; discover(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for module in ("apprise", "dagster", "sklearn", "plotly", "yaml", "openai", "requests"):
        assert f"'{module}'" not in done.stdout
