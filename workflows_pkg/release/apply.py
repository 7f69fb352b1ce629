"""How does a suggestion become what runs? As a new version, and only if it changes what its kind may change."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from workflows_pkg.errors import Refused, WorkflowsError, bounded
from workflows_pkg.history.records import Suggestion, Version
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.spec.canonical import to_dict
from workflows_pkg.spec.model import Workflow

MAY_CHANGE: dict[str, str] = {"retry_policy": "retry", "timeout": "timeout"}
"""The one field of the one step that a suggestion of each kind may change; whatever else differs, it is not applied."""


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
