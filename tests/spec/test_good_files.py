"""Every file in tests/workflows/good loads, and says the same after a round through YAML, JSON and Python values."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from workflows_pkg.spec.canonical import digest, to_dict, to_yaml
from workflows_pkg.spec.loader import load, load_folder, load_text, load_value
from workflows_pkg.spec.schema import json_schema

GOOD = Path(__file__).parent.parent / "workflows" / "good"
FILES = sorted(GOOD.iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_round_trip_keeps_value_and_digest(path, kinds):
    workflow = load(path, kinds)
    again = {
        "yaml": load_text(to_yaml(workflow), file="again.yaml", kinds=kinds),
        "json": load_text(json.dumps(to_dict(workflow)), file="again.json", kinds=kinds),
        "json read as yaml": load_text(json.dumps(to_dict(workflow), ensure_ascii=False), file="again.yaml", kinds=kinds),
        "python": load_value(to_dict(workflow), kinds=kinds),
    }
    assert dict.fromkeys(again, workflow) == again
    assert {digest(other) for other in again.values()} == {digest(workflow)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_fits_the_json_schema(path, kinds):
    jsonschema.validate(to_dict(load(path, kinds)), json_schema())


def test_folder_loads_whole(kinds):
    loaded = load_folder(GOOD, kinds)
    assert loaded.problems == ()
    assert [path for path, _ in loaded.workflows] == FILES


def test_plain_scalars_mean_what_json_means(kinds):
    arguments = load(GOOD / "norway.yaml", kinds).steps["call"].with_["arguments"]
    assert arguments == {
        "country": "no",
        "switch": "on",
        "answer": "yes",
        "time": "12:30:45",
        "day": "2013-01-31",
        "thousand": "1_000",
        "agent": "007",
        "hexadecimal": "0x1F",
        "octal": "0o17",
        "half": ".5",
        "version": "1.10.2",
        "quoted": "true",
        "yes_really": True,
        "none": None,
        "nothing": None,
        "whole": -12,
        "share": 0.25,
        "small": 0.001,
    }


def test_escapes_of_json_are_read(kinds):
    workflow = load(GOOD / "written_as_json.json", kinds)
    assert workflow.owner == "😀 café / team"
