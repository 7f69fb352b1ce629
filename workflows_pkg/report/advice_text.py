"""How is a suggestion said in full, and how is it applied? The change, the effect, the evidence in words, and the exact command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from workflows_pkg.errors import SpecError
from workflows_pkg.history.records import Suggestion
from workflows_pkg.release.apply import ADVICE_ONLY, MAY_TUNE
from workflows_pkg.report.sections import effect_text
from workflows_pkg.report.summary import change_lines, evidence_line
from workflows_pkg.spec.tuning import FILE, with_entry

MOST_ASSUMPTIONS = 6
_FENCE = "```"


def how_to_apply(suggestion: Suggestion) -> str:
    """The command in one line, or that it is the author's code that has to change."""
    if suggestion.kind in ADVICE_ONLY:
        return "Advice only: change it in your code."
    return f"workflows apply {suggestion.suggestion_id}" + (f" --tuning {FILE}" if suggestion.kind in MAY_TUNE else "")


def in_full(suggestion: Suggestion) -> str:
    """Everything said of a suggestion, as Markdown."""
    evidence = _evidence(suggestion)
    parts = [f"**{markdown(suggestion.title)}**", f"Expected: {markdown(effect_text(suggestion))}."]
    parts.append("Change:\n\n" + "\n".join(f"- {markdown(line)}" for line in change_lines(suggestion.change)))
    parts.append(f"Evidence: {markdown(evidence_line(suggestion.evidence))}.")
    assumed = [str(one) for one in evidence.get("assumed", ())][:MOST_ASSUMPTIONS]
    if assumed:
        parts.append("Assumed:\n\n" + "\n".join(f"- {markdown(one)}" for one in assumed))
    parts += _applying(suggestion)
    return "\n\n".join(parts)


def markdown(text: str) -> str:
    """A sentence with names from elsewhere as plain text inside Markdown, on one line."""
    line = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!~" else c for c in line)


def _applying(suggestion: Suggestion) -> Iterator[str]:
    if suggestion.kind in ADVICE_ONLY:
        yield "Advice only: what would change is code of yours."
        return
    if suggestion.kind in MAY_TUNE:
        entry, line = _block(_as_tuning(_entries(suggestion)), "yaml"), f'`instrument(mine, tuning="{FILE}")`'
        yield f"Put this entry into the {FILE} that your definitions name, {line}, and load them again:\n\n{entry}"
        undo = suggestion.suggestion_id
    else:
        yield "Make it the version that runs from now on:"
        undo = suggestion.workflow
    yield f"{_block(how_to_apply(suggestion))}\n\nGo back:\n\n{_block(f'workflows apply --undo {undo}')}"


def _as_tuning(entries: Mapping[str, Mapping[str, Any]]) -> str:
    text = ""
    try:
        for address, entry in entries.items():
            text = with_entry(text, address, entry)
    except SpecError:  # a later release wrote it; JSON is YAML too
        return json.dumps(entries, indent=1)
    return text


def _block(text: str, language: str = "") -> str:
    return f"{_FENCE}{language}\n{text.strip().replace(_FENCE, '')}\n{_FENCE}"


def _entries(suggestion: Suggestion) -> dict[str, dict[str, Any]]:
    value = _json(suggestion.spec)
    return {str(address): entry for address, entry in value.items() if isinstance(entry, dict)} if isinstance(value, dict) else {}


def _evidence(suggestion: Suggestion) -> dict[str, Any]:
    value = _json(suggestion.evidence)
    return value if isinstance(value, dict) else {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
