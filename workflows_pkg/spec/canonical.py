"""When are two workflows the same? Plain values, canonical text and digest of a workflow; and its YAML."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import yaml

from workflows_pkg.spec.model import Workflow
from workflows_pkg.spec.source import plain_value

DIGEST_LENGTH = 16
"""Hexadecimal digits of SHA-256 that are kept: 64 bits, so that two of a million versions agree once in 30 million times."""


def to_dict(workflow: Workflow) -> dict[str, Any]:
    """The workflow as JSON values with the author's keys (`with`, `if`); what equals its default is left out.

    `load_value` makes an equal workflow of it. Parameters under `with` are kept as they were written: their defaults
    belong to the step kind, which may change them.
    """
    return workflow.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def canonical(workflow: Workflow) -> dict[str, Any]:
    """As `to_dict`, with those lists sorted whose order means nothing: needs, retry.on and the columns of checks."""
    value = to_dict(workflow)
    for step in value["steps"].values():
        _sort(step, "needs")
        _sort(step.get("retry", {}), "on")
        for check in step.get("checks", ()):
            _sort(check, "not_null")
            _sort(check, "unique")
    return value


def canonical_json(workflow: Workflow) -> str:
    """One line of JSON, equal for workflows of equal meaning: sorted keys, no spaces."""
    return json.dumps(canonical(workflow), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(workflow: Workflow) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `canonical_json`; equal digests mean equal behaviour."""
    return hashlib.sha256(canonical_json(workflow).encode()).hexdigest()[:DIGEST_LENGTH]


def to_yaml(workflow: Workflow) -> str:
    """A YAML file that loads as an equal workflow: the author's order of keys, no defaults, no aliases."""
    return yaml.dump(to_dict(workflow), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _sort(part: dict[str, Any], name: str) -> None:
    if name in part:
        part[name] = sorted(part[name])


class _Dumper(yaml.SafeDumper):
    """Writes what our own reader reads back: text that it would take for a number, truth or null is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    try:
        ambiguous = plain_value(text) != text
    except ValueError:
        ambiguous = True
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if ambiguous else style)


_Dumper.add_representer(str, _text)
