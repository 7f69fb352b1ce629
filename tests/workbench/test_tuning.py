"""A tuning file lays retries and run timeouts over somebody else's jobs, assets, schedules and sensors, and is undone without a trace."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob

from tests.workbench.reading import attempts, policies, run, run_tags, shown
from workflows_pkg.orchestration.version_tags import DEADLINE_TAG
from workflows_pkg.spec.tuning import parse_tuning, tuning_digest
from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.overlay import TUNING, TUNING_PROBLEMS
from workflows_pkg.workbench.workbench import workbench

pytestmark = [
    pytest.mark.filterwarnings("ignore:Parameter `"),  # Dagster's own, about what it calls preview or beta
    pytest.mark.filterwarnings("ignore:.*is currently in (beta|preview)"),
]

MAX_RUNTIME, DIGEST = "dagster/max_runtime", ".dagster/workflows_digest"
THRICE = "retry: {attempts: 3, delay: 0s}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tuning.yaml"


def tuned(foreign: ModuleType, file: Path, text: str) -> dg.Definitions:
    file.write_text(text)
    return instrument(foreign.definitions(), tuning=file)


def problems(defs: dg.Definitions, file: Path) -> list[str]:
    said = defs.metadata.get(f"{TUNING_PROBLEMS}/{file}")
    return [] if said is None else str(said.value).splitlines()


def tags_of(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    found = instance.get_run_by_id(run_id)
    assert found is not None
    return dict(found.tags)


def counted(instance: dg.DagsterInstance, run_id: str) -> Counter[str | None]:
    return Counter(step for step, _ in attempts(instance, run_id))


@pytest.mark.parametrize(
    ("text", "job", "how", "expected"),
    [
        pytest.param(
            f"job:failing:\n  {THRICE}\n", "failing", {}, {"one": 1, "fails": 3}, id="op job that only automation holds"
        ),
        pytest.param(f"job:failing/step:fails:\n  {THRICE}\n", "failing", {}, {"one": 1, "fails": 3}, id="step of an op job"),
        pytest.param(f"job:bad_asset_job:\n  {THRICE}\n", "bad_asset_job", {}, {"always_fails": 3, "orders": 1}, id="asset job"),
        pytest.param(
            f"job:bad_asset_job:\n  {THRICE}\n",
            "bad_asset_job",
            {"asset_selection": [dg.AssetKey("always_fails")]},
            {"always_fails": 3},
            id="part of an asset job",
        ),
        pytest.param(
            f"job:bad_asset_job/step:always_fails:\n  {THRICE}\n",
            "bad_asset_job",
            {},
            {"always_fails": 3, "orders": 1},
            id="step of an asset job",
        ),
        pytest.param(
            f"job:held_asset_job:\n  {THRICE}\n",
            "held_asset_job",
            {},
            {"always_fails": 3},
            id="asset job that only a sensor holds",
        ),
        pytest.param(
            f"asset:always_fails:\n  {THRICE}\n", "held_asset_job", {}, {"always_fails": 3}, id="asset in a job of a sensor"
        ),
        pytest.param(
            f"asset:always_fails:\n  {THRICE}\n",
            "__ASSET_JOB",
            {"asset_selection": [dg.AssetKey("always_fails")]},
            {"always_fails": 3},
            id="asset from the UI",
        ),
        pytest.param(
            f"job:__ASSET_JOB/step:always_fails:\n  {THRICE}\n",
            "__ASSET_JOB",
            {"asset_selection": [dg.AssetKey("always_fails")]},
            {"always_fails": 3},
            id="step of the implicit job",
        ),
        pytest.param(
            "asset:totals:\n  retry: {attempts: 1}\n", "asset_job", {}, {"orders": 1, "totals": 1}, id="fewer than the code has"
        ),
    ],
)
def test_a_failing_step_is_really_attempted_as_the_entry_says(
    foreign: ModuleType,
    instance: dg.DagsterInstance,
    file: Path,
    text: str,
    job: str,
    how: dict[str, Any],
    expected: dict[str, int],
) -> None:
    defs = tuned(foreign, file, text)
    assert problems(defs, file) == []
    run_id = run(defs, job, instance, **how)
    steps = {
        step: count for step, count in counted(instance, run_id).items() if step in expected or step in ("fails", "always_fails")
    }
    assert steps == expected
    entries = parse_tuning(text).entries
    if "__ASSET_JOB/" not in text:
        assert tags_of(instance, run_id)[DIGEST] == tuning_digest(entries)
    assert DIGEST in tags_of(instance, run_id)


def test_control_without_the_entry_it_is_attempted_once(foreign: ModuleType, instance: dg.DagsterInstance, file: Path) -> None:
    run_id = run(tuned(foreign, file, ""), "bad_asset_job", instance)
    assert counted(instance, run_id)["always_fails"] == 1
    assert DIGEST not in tags_of(instance, run_id)


def test_only_the_named_places_change(foreign: ModuleType, file: Path) -> None:
    text = f"job:graph_job/step:inner.double:\n  {THRICE}\nasset:from_a_graph:\n  {THRICE}\njob:nightly:\n  {THRICE}\n"
    before, after = policies(foreign.definitions()), policies(tuned(foreign, file, text))
    changed = {step for step in before if before[step] != after[step]}
    nightly = {step for step in before if step.startswith("nightly/") and before[step] == dg.RetryPolicy(max_retries=0)}
    assert len(nightly) == 7  # and not `leaf`, which has a policy of its own
    assert changed == nightly | {"graph_job/inner.double", "__ASSET_JOB/from_a_graph.one", "__ASSET_JOB/from_a_graph.double"}
    assert {after[step] for step in changed} == {dg.RetryPolicy(max_retries=2, delay=0)}


def test_run_timeouts_reach_the_runs_of_jobs(foreign: ModuleType, instance: dg.DagsterInstance, file: Path) -> None:
    defs = tuned(foreign, file, "job:graph_job: {timeout: 2h}\njob:asset_job: {timeout: 90s}\njob:nightly: {timeout: 1500ms}\n")
    assert tags_of(instance, run(defs, "graph_job", instance))[MAX_RUNTIME] == "7200"
    assert tags_of(instance, run(defs, "asset_job", instance))[MAX_RUNTIME] == "90"
    nightly = run_tags(defs)["nightly"]
    assert (nightly[MAX_RUNTIME], nightly["who"]) == ("2", "nightly")
    assert MAX_RUNTIME not in run_tags(defs)["graph_job_again"]


def test_deadlines_reach_the_runs_of_jobs_and_what_schedules_ask_for(
    foreign: ModuleType, instance: dg.DagsterInstance, file: Path
) -> None:
    text = "job:graph_job: {deadline: 90m}\njob:nightly: {deadline: by 07:00 Europe/Berlin}\nschedule:every_morning: {deadline: 30m}\n"
    defs = tuned(foreign, file, text)
    assert problems(defs, file) == []
    assert tags_of(instance, run(defs, "graph_job", instance))[DEADLINE_TAG] == "1h30m"
    assert run_tags(defs)["nightly"][DEADLINE_TAG] == "07:00 Europe/Berlin"
    repository = defs.get_repository_def()
    with dg.build_schedule_context(instance=instance, repository_def=repository) as context:
        requests = repository.get_schedule_def("every_morning").evaluate_tick(context).run_requests or []
    assert [request.tags[DEADLINE_TAG] for request in requests] == ["30m"]
    undone = tuned(foreign, file, "")
    assert DEADLINE_TAG not in run_tags(undone)["graph_job"]


@pytest.mark.filterwarnings("ignore:Function `JobDefinition.run_request_for_partition`")  # Dagster's own way of doing it
def test_run_timeouts_reach_what_schedules_and_sensors_ask_for(
    foreign: ModuleType, instance: dg.DagsterInstance, file: Path
) -> None:
    text = (
        "schedule:asks_to_fail: {timeout: 30m}\nschedule:every_morning: {timeout: 31m}\nschedule:by_partitions: {timeout: 32m}\n"
        "sensor:finds_files: {timeout: 33m}\nsensor:by_conditions: {timeout: 34m}\njob:failing: {timeout: 1h}\n"
    )
    defs = tuned(foreign, file, text)
    assert problems(defs, file) == []
    repository = defs.get_repository_def()

    def asked(name: str, **how: Any) -> list[dict[str, str]]:
        with dg.build_schedule_context(instance=instance, repository_def=repository, **how) as context:
            data = repository.get_schedule_def(name).evaluate_tick(context)
        return [dict(request.tags) for request in data.run_requests or []]

    own = parse_tuning(text).entries
    digests = {str(address): tuning_digest({address: entry}) for address, entry in own.items()}
    (request,) = asked("asks_to_fail")
    assert (request["mine"], request[MAX_RUNTIME]) == ("1", "1800")
    assert request[DIGEST] == f"{digests['schedule:asks_to_fail']}-{digests['job:failing']}"
    assert [tags[MAX_RUNTIME] for tags in asked("every_morning")] == ["1860"]
    assert [tags[MAX_RUNTIME] for tags in asked("by_partitions", scheduled_execution_time=datetime(2026, 1, 5, tzinfo=UTC))] == [
        "1920"
    ]
    with dg.build_sensor_context(instance=instance, repository_def=repository, resources=foreign.RESOURCES) as context:
        found = repository.get_sensor_def("finds_files").evaluate_tick(context)
    assert [(request.tags["file"], request.tags[MAX_RUNTIME]) for request in found.run_requests] == [
        ("a.csv", "1980"),
        ("b.csv", "1980"),
    ]
    assert found.cursor == "b.csv"
    sensor = repository.get_sensor_def("by_conditions")
    assert isinstance(sensor, dg.AutomationConditionSensorDefinition)
    assert (sensor.run_tags[MAX_RUNTIME], sensor.run_tags["by"]) == ("2040", "condition")


def test_in_processes_of_their_own(
    foreign: ModuleType, instance: dg.DagsterInstance, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(f"job:failing: {{timeout: 30m, {THRICE}}}\nasset:always_fails: {{{THRICE}}}\n")
    monkeypatch.setenv("FOREIGN_TUNING", str(file))
    config = {"execution": {"config": {"start_method": {"forkserver": {}}}}}
    for job, step in (("failing", "fails"), ("bad_asset_job", "always_fails")):
        with dg.execute_job(
            ReconstructableJob.for_file(str(foreign.FILE), f"tuned_{job}"), instance, run_config=config
        ) as result:
            assert counted(instance, result.run_id)[step] == 3
            assert DIGEST in tags_of(instance, result.run_id)


def test_removing_the_entries_leaves_no_trace(foreign: ModuleType, file: Path) -> None:
    plain = foreign.definitions()
    everything = (
        f"job:nightly: {{timeout: 1h, {THRICE}}}\njob:asset_job/step:totals: {{{THRICE}}}\nasset:raw/returns: {{{THRICE}}}\n"
        "schedule:every_morning: {timeout: 1h}\nsensor:looks_around: {timeout: 1h}\nsensor:by_conditions: {timeout: 1h}\n"
    )
    laid = tuned(foreign, file, everything)
    assert problems(laid, file) == []
    assert policies(laid) != policies(plain)  # control: the comparisons below see a tuning
    assert shown(laid) != shown(plain)
    for text in ("", "# all removed\n", "{}"):
        undone = tuned(foreign, file, text)
        assert shown(undone) == shown(plain)
        assert (policies(undone), run_tags(undone), undone.metadata) == (policies(plain), run_tags(plain), plain.metadata)
    file.unlink()
    gone = instrument(foreign.definitions(), tuning=file)
    assert (shown(gone), policies(gone), gone.metadata) == (shown(plain), policies(plain), plain.metadata)


def test_what_dagster_shows_changes_by_run_tags_only(foreign: ModuleType, file: Path) -> None:
    retries = f"job:bad_asset_job/step:orders: {{{THRICE}}}\n"
    plain, new = shown(foreign.definitions()), shown(tuned(foreign, file, retries))
    assert {name for name in plain if plain[name] != new[name]} == {"location", "job bad_asset_job", "id bad_asset_job"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("job:nightlyy: {timeout: 1h}", "job:nightlyy: nothing here has this address. Did you mean 'job:nightly'?"),
        ("job:failing/step:fail: {retry: {attempts: 2}}", "Did you mean 'job:failing/step:fails'?"),
        ("job:bad_asset_job/step:totals: {retry: {attempts: 2}}", "nothing here has this address."),
        ("asset:raw/return: {retry: {attempts: 2}}", "Did you mean 'asset:raw/returns'?"),
        ("asset:made_elsewhere: {retry: {attempts: 2}}", "nothing here has this address."),
        ("sensor:finds_file: {timeout: 1h}", "Did you mean 'sensor:finds_files'?"),
        ("job:__ASSET_JOB: {timeout: 1h}", "the implicit asset job has no definition to lay this over."),
        (
            "asset:customers: {retry: {attempts: 2}}\nasset:addresses: {retry: {attempts: 3}}",
            "another entry is about it already.",
        ),
        (
            "job:__ASSET_JOB/step:totals: {retry: {attempts: 2}}\nasset:totals: {retry: {attempts: 3}}",
            "another entry says the same in other words.",
        ),
    ],
)
def test_what_cannot_be_laid_over_is_one_warning_and_the_rest_is(
    foreign: ModuleType, file: Path, caplog: pytest.LogCaptureFixture, text: str, said: str
) -> None:
    defs = tuned(foreign, file, f"job:eating: {{timeout: 1h}}\n{text}\n")
    (problem,) = problems(defs, file)
    assert said in problem
    assert problem.startswith(f"{file}:{2 + text.count(chr(10))}:1: ")
    assert [record.getMessage() for record in caplog.records if record.name == "workflows"] == [problem]
    assert run_tags(defs)["eating"][MAX_RUNTIME] == "3600"
    assert "job:eating" in defs.metadata[f"{TUNING}/{file}"].value["entries"]


def test_a_job_whose_steps_all_have_policies_takes_none(foreign: ModuleType, file: Path) -> None:
    first = foreign.one.with_retry_policy(dg.RetryPolicy(max_retries=4))

    @dg.job
    def all_have() -> None:
        foreign.leaf(first())

    file.write_text(f"job:all_have: {{{THRICE}}}")
    (problem,) = problems(instrument(dg.Definitions(jobs=[all_have], resources=foreign.RESOURCES), tuning=file), file)
    assert "Name the step: job:all_have/step:KEY." in problem


def test_an_asset_that_shares_its_op_with_a_job_is_refused(foreign: ModuleType, file: Path) -> None:
    shared = dg.AssetsDefinition.from_op(foreign.one, keys_by_output_name={"result": dg.AssetKey("shared")})
    file.write_text(f"asset:shared: {{{THRICE}}}")
    defs = instrument(dg.Definitions(assets=[shared], jobs=[foreign.eating]), tuning=file)
    (problem,) = problems(defs, file)
    assert "its code is also used by job eating" in problem
    dg.Definitions.validate_loadable(defs)


@pytest.mark.parametrize("text", ["job:nightly: {timeout: soon}", "job:nightly: [", "- a", "asset:totals: {timeout: 1h}", "\x00"])
def test_a_broken_file_takes_nothing_down(foreign: ModuleType, file: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    defs = tuned(foreign, file, f"job:eating: {{timeout: 1h}}\n{text}\n")
    dg.Definitions.validate_loadable(dg.Definitions.merge(defs, workbench()))
    assert problems(defs, file)[0].startswith((f"{file}:2:", f"{file}:3:"))  # an open bracket is missed in the next line
    assert str(file) in caplog.text
    assert policies(defs) == policies(foreign.definitions())
    assert run_tags(defs) == run_tags(foreign.definitions())


def test_a_relative_file_is_beside_the_module_that_says_it(foreign: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "numbers.yaml").write_text("job:eating: {timeout: 1h}\n")
    module = tmp_path / "somebody.py"
    module.write_text("def defs(plain, instrument):\n    return instrument(plain, tuning='numbers.yaml')\n")
    names: dict[str, Any] = {"__file__": str(module)}
    exec(compile(module.read_text(), str(module), "exec"), names)  # noqa: S102 - stands for the user's module
    assert run_tags(names["defs"](foreign.definitions(), instrument))["eating"][MAX_RUNTIME] == "3600"
