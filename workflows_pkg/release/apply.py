"""How does a suggestion become what runs? As a new version, or as an entry of a tuning file where there is no spec; never as more.

It changes what its kind may change, or it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from workflows_pkg.errors import Refused, WorkflowsError, bounded
from workflows_pkg.history.records import Suggestion, Version
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.spec.canonical import to_dict
from workflows_pkg.spec.model import Workflow
from workflows_pkg.spec.tuning import entries, with_entry, without_entry

MAY_CHANGE: dict[str, str] = {"retry_policy": "retry", "timeout": "timeout"}
"""The one field of the one step that a suggestion of each kind may change; whatever else differs, it is not applied."""
MAY_TUNE: dict[str, str] = {"job_retry": "retry", "job_timeout": "timeout"}
"""The same for the entries of a tuning file, by the kinds of suggestions for jobs without a spec."""
ADVICE_ONLY = ("schedule_spread",)
"""Kinds that change what only the author's code says; they are shown and never applied."""


def apply(suggestion: Suggestion, store: VersionStore, *, author: str = "apply") -> Version:
    """Makes the suggestion the next version of its workflow, and that version the active one; the author's file stays as it is.

    Raises WorkflowsError where another version is active than the one the suggestion was made for, and Refused where its spec
    is not valid or changes more than a suggestion of its kind may.
    """
    active = store.active(suggestion.workflow)
    if active.number != suggestion.based_on:
        raise WorkflowsError(
            f"Suggestion {suggestion.suggestion_id} changes version {suggestion.based_on} of {suggestion.workflow}, "
            f"but version {active.number} is active ({bounded(active.reason)}).",
            fix=f"Ask for suggestions again (workflows advise), or make version {suggestion.based_on} active first.",
        )
    changed = _checked(suggestion, store.workflow(active))
    return store.adopt(
        changed, author=author, reason=suggestion.title, parent=active.number, suggestion_id=suggestion.suggestion_id
    )


def undo(name: str, store: VersionStore) -> Version:
    """Makes the parent of the active version active again; raises WorkflowsError where it has none."""
    active = store.active(name)
    if active.parent is None:
        raise WorkflowsError(f"Version {active.number} of {name} is the first; there is nothing to go back to.")
    return store.activate(name, active.parent)


def apply_to_tuning(suggestion: Suggestion, text: str) -> tuple[str, Suggestion]:
    """The tuning file's text with the suggestion in it, and the suggestion as applied, which remembers what was there before.

    An entry that is there already keeps its other fields. Raises Refused where the suggestion says more than its kind may, SpecError
    where the text is no tuning.
    """
    there = entries(text)
    change: list[dict[str, Any]] = []
    for address, field, value in _tuned(suggestion):
        before = there.get(address, {})
        change.append({"path": f"{address}.{field}", "before": before.get(field), "after": value})
        if before.get(field) != value:
            text = with_entry(text, address, {**before, field: value})
    return text, suggestion.model_copy(update={"status": "applied", "change": json.dumps(change, sort_keys=True)})


def undo_in_tuning(suggestion: Suggestion, text: str) -> tuple[str, Suggestion]:
    """The text as it was before the applied suggestion, and the suggestion as undone; other entries stay.

    Raises WorkflowsError where it is not applied, or where the entry says something else by now.
    """
    if suggestion.status != "applied":
        raise WorkflowsError(f"Suggestion {suggestion.suggestion_id} is {suggestion.status}; there is nothing to undo.")
    for change in json.loads(suggestion.change):
        address, field = change["path"].rsplit(".", 1)
        there = entries(text).get(address, {})
        if field not in there:
            continue  # removed by hand: that is what is asked for
        if there[field] != change["after"]:
            found = bounded(json.dumps(there[field]))
            raise WorkflowsError(f"{address} has another {field} by now: {found}.", fix="Edit the tuning file by hand.")
        kept = {name: value for name, value in there.items() if name != field}
        if change["before"] is not None:
            kept = {**there, field: change["before"]}
        text = with_entry(text, address, kept) if kept else without_entry(text, address)
    return text, suggestion.model_copy(update={"status": "undone"})


def _tuned(suggestion: Suggestion) -> Iterator[tuple[str, str, Any]]:
    """(address, field, value) of each change that the suggestion makes."""
    where = f"Suggestion {suggestion.suggestion_id} for {suggestion.workflow}"
    field = MAY_TUNE.get(suggestion.kind)
    if field is None:
        raise Refused(f"{where} is of the kind '{bounded(suggestion.kind)}', which is not applied to a tuning file.")
    spec = json.loads(suggestion.spec)
    if not isinstance(spec, Mapping) or not spec:
        raise Refused(f"{where} has no entry for a tuning file.", fix="Ask for suggestions again (workflows advise).")
    for address, entry in spec.items():
        if not isinstance(entry, Mapping) or set(entry) != {field}:
            raise Refused(f"{where} may set {field} only, but says more of {bounded(address)}.", fix="Nothing was changed.")
        yield address, field, entry[field]


def _checked(suggestion: Suggestion, base: Workflow) -> Workflow:
    where = f"Suggestion {suggestion.suggestion_id} for {suggestion.workflow}"
    try:
        changed = Workflow.model_validate_json(suggestion.spec)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refused(f"{where} is not a valid spec: {place}: {bounded(first['msg'])}.", fix="Nothing was changed.") from None
    field = MAY_CHANGE.get(suggestion.kind)
    if field is None:
        raise Refused(f"{where} is of the kind '{bounded(suggestion.kind)}', which is not applied by itself.")
    if suggestion.step not in base.steps:
        raise Refused(f"{where} is about step '{bounded(suggestion.step)}', which version {suggestion.based_on} does not have.")
    if _without(changed, suggestion.step, field) != _without(base, suggestion.step, field):
        raise Refused(
            f"{where} may change {suggestion.step}.{field} only, but differs from version {suggestion.based_on} elsewhere.",
            fix="Nothing was changed. Ask for suggestions again (workflows advise).",
        )
    if to_dict(changed) == to_dict(base):
        raise Refused(f"{where} changes nothing.")
    return changed


def _without(workflow: Workflow, step: str, field: str) -> str:
    """The spec as text, less the one field that may differ."""
    value: dict[str, Any] = json.loads(json.dumps(to_dict(workflow)))
    value["steps"].get(step, {}).pop(field, None)
    return json.dumps(value, sort_keys=True)
