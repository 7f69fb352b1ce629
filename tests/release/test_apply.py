"""A suggestion becomes a version only if it is for the active one and changes what its kind may change."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflows_pkg.errors import Refused, WorkflowsError
from workflows_pkg.history.records import Suggestion
from workflows_pkg.release.apply import MAY_CHANGE, apply, undo
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.spec.canonical import canonical_json, to_dict
from workflows_pkg.spec.model import Workflow


def suggestion(spec, *, kind="retry_policy", based_on=1, step="score", identity="s-1"):
    return Suggestion(
        suggestion_id=identity, kind=kind, workflow="daily", step=step, based_on=based_on, title="Wait less.", change="[]",
        spec=spec if isinstance(spec, str) else canonical_json(spec), evidence="{}", quantity="run_time_s",
        created_at=datetime(2026, 5, 1, tzinfo=UTC),
    )  # fmt: skip


def test_applied_suggestion_is_the_active_version_and_says_where_it_comes_from(store, workflow):
    store.current(workflow())
    changed = workflow(retry={"attempts": 3, "delay": "300ms"})
    version = apply(suggestion(changed), store, author="ada")
    assert (version.number, version.parent, version.author, version.suggestion_id, version.active) == (2, 1, "ada", "s-1", True)
    assert version.reason == "Wait less."
    assert store.current(workflow()) == (changed, 2)


def test_undo_returns_to_the_parent_byte_by_byte(store, workflow):
    store.current(workflow())
    before = store.active("daily").spec
    apply(suggestion(workflow(timeout="9s"), kind="timeout"), store)
    assert undo("daily", store).number == 1
    assert store.active("daily").spec == before
    with pytest.raises(WorkflowsError, match="Version 1 of daily is the first"):
        undo("daily", store)


def test_suggestion_for_another_version_is_refused_with_what_to_do(store, workflow):
    store.current(workflow())
    store.current(workflow(timeout="20s"))
    with pytest.raises(WorkflowsError, match=r"changes version 1 of daily, but version 2 is active \(edited file\)\. Ask for"):
        apply(suggestion(workflow(timeout="9s"), kind="timeout"), store)
    assert len(store.log("daily")) == 2


def test_applying_again_after_an_undo_takes_up_the_same_version(store, workflow):
    store.current(workflow())
    wanted = suggestion(workflow(timeout="9s"), kind="timeout")
    apply(wanted, store)
    undo("daily", store)
    assert apply(wanted, store).number == 2
    assert [version.number for version in store.log("daily")] == [2, 1]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"timeout": "9s"}, "retry_policy", "may change score.retry only"),
        ({"retry": {"attempts": 2}}, "timeout", "may change score.timeout only"),
        ({"uses": "shell"}, "timeout", "may change score.timeout only"),
        ({"timeout": "9s"}, "schedule", "kind 'schedule', which is not applied"),
        ({}, "timeout", "changes nothing"),
    ],
)
def test_suggestion_that_changes_more_than_its_kind_may_is_refused(store, workflow, change, kind, message):
    store.current(workflow())
    with pytest.raises(Refused, match=message):
        apply(suggestion(workflow(**change), kind=kind), store)
    assert store.current(workflow())[1] == 1


TOO_OFTEN = '{"workflow": "daily", "steps": {"score": {"uses": "python", "retry": {"attempts": 900}}}}'


@pytest.mark.parametrize("spec", ["", "{}", "[1, 2]", TOO_OFTEN])
def test_spec_that_is_not_valid_is_refused_in_one_line(store, workflow, spec):
    store.current(workflow())
    with pytest.raises(Refused, match="is not a valid spec") as caught:
        apply(suggestion(spec), store)
    assert "\n" not in str(caught.value)


def test_suggestion_about_a_step_that_is_not_there_is_refused(store, workflow):
    store.current(workflow())
    with pytest.raises(Refused, match="step 'scores', which version 1 does not have"):
        apply(suggestion(workflow(timeout="9s"), kind="timeout", step="scores"), store)


def test_control_a_valid_spec_alone_would_let_a_suggestion_change_anything(store, workflow):
    store.current(workflow())
    other = workflow(uses="shell", **{"with": {"command": "rm -r ~"}})
    assert Workflow.model_validate_json(canonical_json(other)) == other
    with pytest.raises(Refused):
        apply(suggestion(other), store)


durations = st.integers(0, 400 * 86_400_000).map(lambda milliseconds: f"{milliseconds}ms")
changes = st.dictionaries(
    st.sampled_from(["retry", "timeout", "uses", "with", "needs", "produces", "if"]),
    st.one_of(
        durations,
        st.fixed_dictionaries({"attempts": st.integers(-2, 60)}, optional={"delay": durations}),
        st.sampled_from(["python", "shell", None, [], ["load"], {}, {"call": "os:system"}]),
    ),
    max_size=3,
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=changes, kind=st.sampled_from([*MAY_CHANGE, "schedule"]), elsewhere=st.booleans(), based_on=st.integers(1, 2))
def test_no_random_suggestion_gets_past_the_guard(tmp_path_factory, workflow, change, kind, elsewhere, based_on):
    store = VersionStore(tmp_path_factory.mktemp("home"))
    store.current(workflow())
    value = json.loads(canonical_json(workflow()))
    value["steps"]["announce" if elsewhere else "score"].update(change)
    try:
        version = apply(suggestion(json.dumps(value), kind=kind, based_on=based_on), store)
    except WorkflowsError:
        assert store.active("daily").number == 1
        assert len(store.log("daily")) == 1
        return
    applied, base = store.workflow(version), workflow()
    (differs,) = {field for field in type(base.steps["score"]).model_fields if _field(applied, field) != _field(base, field)}
    assert differs == MAY_CHANGE[kind]
    assert {name: step for name, step in to_dict(applied)["steps"].items() if name != "score"} == {
        name: step for name, step in to_dict(base)["steps"].items() if name != "score"
    }
    retry, timeout = applied.steps["score"].retry, applied.steps["score"].timeout
    assert retry is None or 1 <= retry.attempts <= 20
    assert timeout is None or timeout <= timedelta(days=366)
    assert undo("daily", store).spec == canonical_json(base)


def _field(workflow, field):
    return getattr(workflow.steps["score"], field)
