"""Does a compiled workflow do in Dagster what its file says?"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from workflows_pkg.errors import SpecError
from workflows_pkg.orchestration.compiled import definitions
from workflows_pkg.orchestration.launch import run_in_process
from workflows_pkg.orchestration.version_tags import BUDGET_TAG, DEADLINE_TAG, DIGEST_TAG, OWNER_TAG, WORKFLOW_TAG

DAILY = {"daily": {"start": "2024-03-30", "end": "2024-04-02", "timezone": "Europe/Berlin"}}


def test_steps_run_after_what_they_need_and_get_its_output(bench: Any) -> None:
    seen: dict[str, Any] = {}
    bench.functions = {
        "first": lambda context, params: pd.DataFrame({"n": [1, 2]}),
        "second": lambda context, params: {"total": int(context.inputs["first"]["n"].sum())},
        "third": lambda context, params: seen.update(inputs=dict(context.inputs), step=context.step, attempt=context.attempt),
    }
    outcome = bench.run({"steps": {"first": {}, "second": {"needs": ["first"]}, "third": {"needs": ["second"]}}})
    assert outcome.success
    assert outcome.steps("STEP_SUCCESS") == ["first", "second", "third", "done"]
    assert seen == {"inputs": {"second": {"total": 3}}, "step": "third", "attempt": 1}


def test_what_steps_produce_and_the_workflow_itself_become_assets(bench: Any) -> None:
    bench.functions = {"a": lambda c, p: pd.DataFrame({"x": [1]}), "b": lambda c, p: 1, "c": lambda c, p: b"bytes"}
    spec = {
        "owner": "data team",
        "deadline": "1m30s",
        "budget": {"usd_per_run": 0.5},
        "steps": {"a": {"produces": "t/a"}, "b": {"needs": ["a"]}, "c": {"needs": ["b"], "produces": "t/c"}},
    }
    compiled = bench.compile(spec, version=4)
    graph = definitions([compiled]).resolve_asset_graph()
    assert graph.get(dg.AssetKey(["t", "c"])).parent_keys == {dg.AssetKey(["t", "a"])}
    assert graph.get(dg.AssetKey(["workflow", "bench"])).parent_keys == {dg.AssetKey(["t", "c"])}
    outcome = bench.outcome(run_in_process(compiled, bench.instance))
    assert outcome.materialized() == ["t/a", "t/c", "workflow/bench"]
    metadata = outcome.events("ASSET_MATERIALIZATION", "a")[0].materialization.metadata
    assert metadata["dagster/row_count"].value == 1
    assert metadata["size_bytes"].value > 0
    tags = outcome.run.tags
    assert (tags[WORKFLOW_TAG], tags["workflows/version"], tags[OWNER_TAG]) == ("bench", "4", "data team")
    assert tags[DIGEST_TAG] == compiled.digest
    assert tags[DEADLINE_TAG] == "1m30s"
    assert tags[BUDGET_TAG] == "0.5"


def test_a_false_if_skips_the_step_and_what_needs_it_but_the_workflow_ends_well(bench: Any) -> None:
    called: list[str] = []
    bench.functions = {name: lambda c, p, name=name: called.append(name) or {"share": 0.2} for name in "abcd"}
    spec = {
        "steps": {
            "a": {},
            "b": {"needs": ["a"], "if": "${{ steps.a.share > 0.5 }}"},
            "c": {"needs": ["b"]},
            "d": {"needs": ["a"], "if": "${{ steps.a.share < 0.5 }}"},
        }
    }
    outcome = bench.run(spec)
    assert outcome.success
    assert called == ["a", "d"]
    assert outcome.steps("STEP_SKIPPED") == ["c"]
    assert outcome.materialized() == ["workflow/bench"]


def test_the_workflow_counts_as_done_even_where_every_step_is_skipped(bench: Any) -> None:
    spec = {"steps": {"a": {"if": "${{ run.id == 'another' }}"}, "b": {"needs": ["a"]}}}
    outcome = bench.run(spec)
    assert outcome.success
    assert outcome.materialized() == ["workflow/bench"]


def test_the_workflow_is_not_done_while_a_step_that_a_skipped_one_needs_fails(bench: Any) -> None:
    """`late` is skipped at once since `gate` is; the workflow still waits for `broken`, which nothing else waits for."""

    def broken(context: Any, params: Any) -> None:
        raise ValueError("no")

    bench.functions = {"gate": lambda c, p: 1, "broken": broken, "late": lambda c, p: 1}
    spec = {"steps": {"gate": {"if": "${{ run.id == '' }}"}, "broken": {}, "late": {"needs": ["gate", "broken"]}}}
    outcome = bench.run(spec)
    assert not outcome.success
    assert outcome.materialized() == []


def test_a_run_of_a_partition_sees_its_slice_in_the_workflows_time_zone(bench: Any) -> None:
    seen: dict[str, Any] = {}
    bench.functions = {"a": lambda c, p: seen.update(slice=c.partition, value=p.value)}
    value = "${{ partition.date }} ${{ partition.start }} ${{ partition.end }} ${{ partition.key }}"
    outcome = bench.run({"partitions": DAILY, "steps": {"a": {"with": {"value": value}, "produces": "t/a"}}}, "2024-03-31")
    assert outcome.success
    assert seen["value"] == "2024-03-31 2024-03-31T00:00:00+01:00 2024-04-01T00:00:00+02:00 2024-03-31"
    assert (seen["slice"].end - seen["slice"].start).total_seconds() == 24 * 3600  # aware arithmetic of one zone: wall clock
    assert seen["slice"].end.timestamp() - seen["slice"].start.timestamp() == 23 * 3600
    assert bench.instance.get_materialized_partitions(dg.AssetKey(["t", "a"])) == {"2024-03-31"}
    assert bench.instance.get_materialized_partitions(dg.AssetKey(["workflow", "bench"])) == {"2024-03-31"}


def test_monthly_partitions_are_keyed_by_their_first_day(bench: Any) -> None:
    spec = {"partitions": {"monthly": {"start": "2024-01-01", "end": "2024-04-01"}}, "steps": {"a": {}}}
    partitions = bench.compile(spec).assets.partitions_def
    assert partitions is not None
    assert partitions.get_partition_keys() == ["2024-01-01", "2024-02-01", "2024-03-01"]


def test_expressions_see_fields_of_json_and_of_tables(bench: Any) -> None:
    seen: list[Any] = []
    bench.functions = {
        "one": lambda c, p: pd.DataFrame({"late_share": [0.25]}),
        "many": lambda c, p: pd.DataFrame({"late_share": [0.25, 0.5]}),
        "told": lambda c, p: seen.append(p.value),
    }
    value = {
        "share": "${{ steps.one.late_share }}",
        "rows": "${{ steps.many.rows }}",
        "columns": "${{ steps.many.columns }}",
        "run": "${{ run.id }}",
    }
    outcome = bench.run({"steps": {"one": {}, "many": {}, "told": {"needs": ["one", "many"], "with": {"value": value}}}})
    assert seen == [{"share": 0.25, "rows": 2, "columns": ["late_share"], "run": outcome.run.run_id}]


def test_a_resolved_parameter_of_the_wrong_type_is_one_sentence_with_its_place(bench: Any) -> None:
    bench.functions = {"a": lambda c, p: {"n": "many"}, "b": lambda c, p: 1}
    outcome = bench.run({"steps": {"a": {}, "b": {"needs": ["a"], "with": {"number": "${{ steps.a.n }}"}}}})
    error = outcome.events("STEP_FAILURE", "b")[0].event_specific_data.error.cause
    assert error.cls_name == "CodeProblem"
    assert "Step 'b': with.number:" in error.message
    assert "integer" in error.message


def test_the_file_of_a_sensor_is_an_input_and_a_run_without_it_says_what_to_do(bench: Any) -> None:
    seen: list[Any] = []
    bench.functions = {"a": lambda c, p: seen.append(p.value)}
    spec = {"sensor": {"file_arrival": {"path": "*.csv"}}, "steps": {"a": {"with": {"value": "${{ sensor.file }}"}}}}
    assert bench.run(spec, tags={"workflows/sensor_file": "inbox/x.csv"}).success
    assert seen == ["inbox/x.csv"]
    outcome = bench.run(spec)
    message = outcome.events("STEP_FAILURE", "a")[0].event_specific_data.error.cause.message
    assert "was not started by the file sensor. Launch it with the tag workflows/sensor_file=" in message


def test_a_prefix_gives_a_second_version_of_its_own_keys_and_name_beside_the_first(bench: Any) -> None:
    spec = {"schedule": {"cron": "0 6 * * *"}, "steps": {"a": {"produces": "t/a"}}}
    first, second = (
        bench.compile(spec, version=1),
        bench.compile(spec, version=2, prefix="trial", extra_tags={"workflows/trial": "x"}),
    )
    bench.functions = {"a": lambda c, p: 1}
    assert second.name == "trial__bench"
    assert {key.to_user_string() for key in second.keys} == {"trial/t/a", "trial/workflow/bench"}
    assert (len(first.schedules), len(second.schedules)) == (1, 0)
    definitions([first, second]).get_repository_def().load_all_definitions()
    run = bench.outcome(run_in_process(second, bench.instance))
    assert run.success
    assert run.run.tags["workflows/trial"] == "x"
    assert bench.instance.get_latest_materialization_event(dg.AssetKey(["workflow", "bench"])) is None


def test_a_run_is_recorded_under_the_version_that_ran(bench: Any) -> None:
    bench.functions = {"a": lambda c, p: 1}
    compiled = bench.compile({"steps": {"a": {}}}, version=2)
    run_id = run_in_process(compiled, bench.instance, tags={"workflows/version": "1", DIGEST_TAG: "earlier"})
    tags = bench.outcome(run_id).run.tags
    assert (tags["workflows/version"], tags[DIGEST_TAG]) == ("2", compiled.digest)


def test_words_that_dagster_reserves_are_step_names_like_others(bench: Any) -> None:
    names = ["import", "config", "output", "type", "after", "value"]
    bench.functions = {name: lambda c, p: 1 for name in names}
    steps = {name: {"needs": names[:index][-1:], "produces": f"t/{name}"} for index, name in enumerate(names)}
    outcome = bench.run({"steps": steps})
    assert outcome.success
    assert outcome.steps("STEP_SUCCESS") == [*names, "done"]


def test_a_workflow_name_that_dagster_reserves_is_one_problem_with_its_file(bench: Any) -> None:
    with pytest.raises(SpecError, match=r"^flows/import\.yaml:1:1: Dagster refuses the workflow 'import': .*reserved"):
        bench.compile({"workflow": "import", "steps": {"a": {}}}, file="flows/import.yaml")


def test_an_unknown_step_kind_is_one_problem_with_the_nearest_name(bench: Any) -> None:
    from workflows_pkg.orchestration.compile import compile_workflow
    from workflows_pkg.spec.model import Workflow

    workflow = Workflow.model_validate({"workflow": "x", "steps": {"a": {"uses": "data.sq"}}})
    with pytest.raises(SpecError, match=r"x\.yaml:1:1: There is no step kind 'data\.sq'\. Did you mean 'data\.sql'\?"):
        compile_workflow(workflow, bench.kinds, bench.allow, file="x.yaml")


def test_two_workflows_with_one_asset_are_a_problem_that_names_both_files(bench: Any) -> None:
    one = bench.compile({"workflow": "one", "steps": {"a": {"produces": "t/a"}}}, file="one.yaml")
    two = bench.compile({"workflow": "two", "steps": {"b": {"produces": "t/a"}}}, file="two.yaml")
    with pytest.raises(SpecError, match=r"two\.yaml:1:1: the asset 't/a' is already produced by one\.yaml"):
        definitions([one, two])


def test_partitions_and_a_file_sensor_do_not_go_together(bench: Any) -> None:
    spec = {"partitions": DAILY, "sensor": {"file_arrival": {"path": "*"}}, "steps": {"a": {}}}
    with pytest.raises(SpecError, match="a file does not say which partition it is of"):
        bench.compile(spec)


def test_each_attempt_is_metered_once(bench: Any) -> None:
    tries: list[int] = []

    def flaky(context: Any, params: Any) -> int:
        tries.append(context.attempt)
        if context.attempt < 3:
            raise ConnectionError("not yet")
        return 1

    bench.functions = {"a": flaky}
    outcome = bench.run({"steps": {"a": {"retry": {"attempts": 3, "delay": "1ms"}}}})
    metered = [
        event.event_specific_data.metadata["workflows/attempt"].value
        for event in outcome.events("ENGINE_EVENT", "a")
        if "workflows/attempt" in event.event_specific_data.metadata
    ]
    assert tries == metered == [1, 2, 3]


def test_a_failed_step_is_told_to_on_failure_after_its_last_attempt(bench: Any) -> None:
    told: list[Any] = []

    def fails(context: Any, params: Any) -> None:
        raise ConnectionError("the other side hung up")

    bench.functions = {"a": fails, "told": lambda c, p: told.append((p.value, c.partition.key))}
    spec = {
        "partitions": DAILY,
        "steps": {"a": {"retry": {"attempts": 2, "delay": "1ms"}}},
        "on_failure": {
            "uses": "test.do",
            "with": {"function": "told", "value": "${{ failure.step }} | ${{ failure.error }} | ${{ failure.run }}"},
        },
    }
    outcome = bench.run(spec, "2024-03-31")
    assert not outcome.success
    assert told == [(f"a | ConnectionError: the other side hung up | {outcome.run.run_id}", "2024-03-31")]


def test_an_error_in_on_failure_is_logged_and_changes_nothing_else(bench: Any) -> None:
    def fails(context: Any, params: Any) -> None:
        raise ValueError(context.step)

    bench.functions = {"a": fails, "told": fails}
    spec = {"steps": {"a": {}}, "on_failure": {"uses": "test.do", "with": {"function": "told"}}}
    outcome = bench.run(spec)
    assert outcome.error_classes("STEP_FAILURE", "a")[-1] == "ValueError"
    assert len(outcome.events("HOOK_ERRORED", "a")) == 1
    assert [event.event_type_value for event in outcome.events("PIPELINE_FAILURE")] == ["PIPELINE_FAILURE"]


def test_compiling_touches_no_file_and_no_network(bench: Any) -> None:
    """A control beside it: the same look at audit events does see a file that is opened."""
    program = """
import json, sys
from workflows_pkg.orchestration.compile import compile_workflow
from workflows_pkg.security.allow import Allow
from workflows_pkg.spec.loader import load_value
from workflows_pkg.steps.discovery import discover
kinds = discover()
def workflow(name):
    return load_value({"workflow": name, "sensor": {"file_arrival": {"path": "*.csv"}},
        "steps": {"a": {"uses": "http", "with": {"url": "http://127.0.0.1:9/"}}}}, kinds=kinds.params())
compile_workflow(workflow("warm"), kinds, Allow(secrets=("x",)))
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event in ("open", "socket.connect", "subprocess.Popen") else None)
compile_workflow(workflow("cold"), kinds, Allow(secrets=("x",)))
quiet = len(seen)
open("/dev/null").close()
print(json.dumps([quiet, len(seen)]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [0, 1]


def test_the_workflows_page_says_its_steps_and_version(bench: Any) -> None:
    steps = {"first": {"retry": {"attempts": 3, "delay": "2s"}, "timeout": "5m"}, "then": {"needs": ["first"]}}
    metadata = bench.compile({"steps": steps}, version=3).assets.metadata_by_key[dg.AssetKey(["workflow", "bench"])]
    assert metadata["version"].value == 3
    assert metadata["steps"].value.splitlines() == [
        "- **first**: `test.do`, up to 3 times, at most 5m each",
        "- **then**: `test.do` after first",
    ]
