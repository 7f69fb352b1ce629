"""What Dagster writes comes out in the words of history, and nothing that it could write stops the translation."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import workflows_pkg.errors as errors
from workflows_pkg.history.records import Event
from workflows_pkg.orchestration.translation import CAUSES, MESSAGE_LIMIT, TRANSLATE_SQL, VALUE_LIMIT, plain_json


def translate(*entries: str) -> list[dict[str, Any]]:
    raw = pa.table(
        {
            "source_id": ["s"] * len(entries),
            "run_id": ["r"] * len(entries),
            "event_id": pa.array(range(1, len(entries) + 1), pa.int64()),
            "event_hash": ["h"] * len(entries),
            "event": [plain_json(entry) for entry in entries],
        }
    )
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("raw", raw)
        return con.execute(TRANSLATE_SQL).to_arrow_table().to_pylist()


def entry(kind: str, data: Any = None, **more: Any) -> str:
    event = {"event_type_value": kind, "event_specific_data": data, "pid": 7, "step_key": "a"}
    return json.dumps({"timestamp": 1700000000.25, "pipeline_name": "job", "step_key": "a", "dagster_event": event, **more})


def error(*chain: tuple[str, str]) -> dict[str, Any] | None:
    if not chain:
        return None
    (name, message), *causes = chain
    return {"cls_name": name, "message": message, "cause": error(*causes)}


def entries_of(**values: Any) -> list[dict[str, Any]]:
    return [{"label": name, "entry_data": value} for name, value in values.items()]


def test_columns_are_those_of_the_record() -> None:
    assert list(translate(entry("STEP_START"))[0]) == list(Event.model_fields)


def test_the_innermost_error_is_kept_without_its_module() -> None:
    chain = error(
        ("DagsterExecutionStepExecutionError", "outer"),
        ("ValueError", "ValueError: b\n"),
        ("Inner", "my.jobs.Inner: deep: down\n"),
    )
    row = translate(entry("STEP_FAILURE", {"error": chain}))[0]
    assert (row["error_class"], row["error_message"]) == ("Inner", "deep: down")


def test_an_error_of_this_project_counts_before_what_caused_it() -> None:
    chain = error(
        ("DagsterExecutionStepExecutionError", "x"),
        ("RateLimited", "workflows_pkg.errors.RateLimited: slow"),
        ("HTTPError", "429"),
    )
    row = translate(entry("STEP_UP_FOR_RETRY", {"error": chain, "seconds_to_wait": 3}))[0]
    assert (row["error_class"], row["error_message"], row["seconds"]) == ("RateLimited", "slow", 3.0)


def test_messages_are_cut() -> None:
    row = translate(entry("STEP_FAILURE", {"error": error(("E", "x" * 9999))}))[0]
    assert len(row["error_message"]) == MESSAGE_LIMIT


def test_metadata_is_flattened_and_long_values_are_left_out() -> None:
    data = {
        "materialization": {
            "asset_key": {"path": ["a", "b/c"]},
            "partition": "p",
            "metadata_entries": entries_of(
                n={"value": 1},
                t={"text": "x"},
                j={"data": {"k": [1]}},
                u={"url": "u"},
                long={"md_str": "#" * (VALUE_LIMIT + 1)},
                odd={"schema": {}},
            ),
        }
    }
    row = translate(entry("ASSET_MATERIALIZATION", data))[0]
    assert (row["kind"], row["asset_key"], row["partition_key"]) == ("materialized", "a/b/c", "p")
    assert json.loads(row["data"]) == {"n": 1, "t": "x", "j": {"k": [1]}, "u": "u"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('{"value": NaN}', {"n": None}, id="a number that is none"),
        pytest.param('{"value": -Infinity}', {"n": None}, id="infinity"),
        pytest.param('{"text": "a\\ud800b"}', {"n": "a?b"}, id="half a surrogate pair"),
        pytest.param('{"text": "a\\u0000b"}', {"n": "a\0b"}, id="the null character"),
        pytest.param('{"text": "NaN"}', {"n": "NaN"}, id="the word"),
    ],
)
def test_json_as_python_writes_it_is_read(text: str, expected: dict[str, Any]) -> None:
    data = (
        f'{{"materialization": {{"asset_key": {{"path": ["a"]}}, "metadata_entries": [{{"label": "n", "entry_data": {text}}}]}}}}'
    )
    event = f'{{"event_type_value": "ASSET_MATERIALIZATION", "event_specific_data": {data}}}'
    row = translate(f'{{"timestamp": 1.5, "dagster_event": {event}}}')[0]
    assert row["kind"] == "materialized"
    assert {name: value for name, value in json.loads(row["data"] or "{}").items() if value is not None} == {
        name: value for name, value in expected.items() if value is not None
    }


def test_only_engine_events_with_an_attempt_are_measurements() -> None:
    metered = {"metadata_entries": entries_of(**{"workflows/attempt": {"value": 2}, "workflows/process_id": {"value": 12}})}
    other = {"metadata_entries": entries_of(pid={"text": "12"})}
    rows = translate(
        entry("ENGINE_EVENT", metered), entry("ENGINE_EVENT", other), entry("HANDLED_OUTPUT", metered), entry("NEW_IN_DAGSTER_9")
    )
    assert [row["kind"] for row in rows] == ["metered", "other", "other", "other"]
    assert json.loads(rows[0]["data"]) == {"workflows/attempt": 2, "workflows/process_id": 12}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '"x"', "{}", '{"timestamp": "soon", "dagster_event": {}}', "not UTF-8: x"]
)
def test_what_is_no_event_has_no_kind_or_no_instant(text: str) -> None:
    row = translate(text)[0]
    assert row["kind"] is None or row["at"] is None


def test_every_error_of_this_project_has_the_cause_it_names() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.StepError)]
    assert len(kinds) >= 7
    assert {kind.__name__: CAUSES.get(kind.__name__) for kind in kinds} == {kind.__name__: kind.cause for kind in kinds}


@pytest.mark.parametrize("error", ["", "{", "boom", '{"cls_name": ', 7, [], {"cls_name": []}, {"cause": ""}])
def test_an_error_that_is_none_leaves_the_failure_standing(error: Any) -> None:
    whole = {"error": {"cls_name": "ValueError", "message": "ValueError: no\n", "cause": None}}
    odd, good = translate(entry("STEP_FAILURE", {"error": error}), entry("STEP_FAILURE", whole))
    assert (odd["kind"], odd["error_message"]) == ("step_failed", None)
    assert (good["error_class"], good["error_message"]) == ("ValueError", "no")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


FIELDS = [
    "error",
    "metadata_entries",
    "materialization",
    "asset_key",
    "partition",
    "check_name",
    "success",
    "severity",
    "seconds_to_wait",
]
KINDS = ["STEP_FAILURE", "ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION", "ENGINE_EVENT", "STEP_UP_FOR_RETRY"]
details = st.dictionaries(st.sampled_from(FIELDS), anything, max_size=4) | st.fixed_dictionaries(
    {
        "materialization": st.fixed_dictionaries(
            {"asset_key": st.fixed_dictionaries({"path": anything}), "metadata_entries": anything}
        )
    }
)
odd_entries = st.builds(
    lambda kind, data, at: entry(kind, data, timestamp=at), st.sampled_from(KINDS), details, st.just(1.5) | anything
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(odd=st.lists(odd_entries, min_size=5, max_size=20))
def test_no_value_in_any_field_stops_the_translation(odd: list[str]) -> None:
    rows = translate(*odd, entry("STEP_START"))
    assert len(rows) == len(odd) + 1
    assert rows[-1]["kind"] == "step_started"
