"""The workbench's assets say what was learned, keep out of the way of whoever merges them, and cost nothing to load."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from dagster._serdes import serialize_value

from tests.workbench.reading import shown
from workflows_pkg.history.records import Run, StepAttempt
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.report.sketch import LONGEST
from workflows_pkg.workbench import asset_results
from workflows_pkg.workbench.assets import IN_MEMORY, LEARNING_JOB, NAMES, asset_key
from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.workbench import workbench

FOREIGN: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "advisor" / "foreign_history.py"))
pytestmark = [
    pytest.mark.filterwarnings("ignore:Parameter `execution_type`"),  # Dagster's own, about any AssetSpec
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),  # the foreign project uses what Dagster calls beta
]


@dataclass
class Learned:
    """A learning run over a few runs of the foreign project."""

    instance: dg.DagsterInstance
    home: Path
    defs: dg.Definitions
    result: dg.ExecuteInProcessResult

    def page(self, name: str) -> dict[str, Any]:
        (made,) = [e for e in self.result.get_asset_materialization_events() if e.asset_key == asset_key(name)]
        return {key: value.value for key, value in made.materialization.metadata.items()}


@pytest.fixture(scope="module")
def learned(foreign: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learned]:
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    defs = dg.Definitions.merge(foreign.instrumented(), workbench())
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for name in ("doubling", "doubling", "doubling", "failing", "failing", "failing"):
            defs.resolve_job_def(name).execute_in_process(instance=instance, raise_on_error=False)
        sync_events(home, home)
        yield Learned(instance, home, defs, learn(defs, instance))


def learn(defs: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(LEARNING_JOB).execute_in_process(instance=instance)


def test_all_pages_are_made_from_what_landed(learned: Learned) -> None:
    assert {event.asset_key for event in learned.result.get_asset_materialization_events()} == set(map(asset_key, NAMES))
    history = learned.page("history")
    assert (history["runs"], history["successes"], history["failures"], history["put aside"]) == (6, 3, 3, 0)
    assert {record.data["job"]: record.data["failed"] for record in history["jobs"].records} == {"doubling": 0, "failing": 3}
    with closing(open_history(learned.home)) as con:
        counts = {row.data["table"]: row.data["rows"] for row in history["tables"].records}
        for table in ("events", "runs", "step_attempts", "usage"):
            assert con.execute(f"select count(*) from {table}").fetchone() == (counts[table],)
        (kept,) = con.execute(
            "select p50 from forecasts where job_name = 'doubling' and step = '' and quantity = 'run_time_s'"
        ).fetchone()  # type: ignore[misc]
    assert kept > 0
    assert learned.page("predictors")["card"]["data"]["ended_runs"] == 6
    (row,) = [record.data for record in learned.page("forecasts")["next runs"].records]
    assert row["job"] == "doubling"
    assert "| doubling |" in learned.page("forecasts")["next runs in full"]
    assert "'failing' has failed in each of its 3 runs" in learned.page("findings")["all findings"].records[0].data["finding"]


def test_what_is_drawn_in_place_is_short_enough_to_be_shown_there(learned: Learned) -> None:
    drawn = {name: text for page in NAMES for name, text in learned.page(page).items() if str(text).startswith("![")}
    in_place = {name: text for name, text in drawn.items() if "base64" not in text}
    assert set(in_place) >= {"runs by day", "run times", "time lost (red: high)"}
    assert all(len(text) <= LONGEST for text in in_place.values())
    assert len(drawn["run times, and the newest runs"]) > LONGEST  # control: this one stands behind a link


def test_a_learning_run_adds_little_to_the_event_log(learned: Learned) -> None:
    assert sum(len(serialize_value(event)) for event in learned.result.get_asset_materialization_events()) < 60_000


ROOM = 44
"""Characters for which there is room in a row of a table on an asset's page, at 1,280 pixels: 385 of them, 8.4 a character, and 17 for
the borders of each column, which count as two characters. What is wider cuts the texts beside it."""


def width(columns: list[list[str]]) -> int:
    """Characters that the longest words of the columns need."""
    return sum(2 + max(len(word) for text in column for word in re.split(r"[ –-]", text)) for column in columns)


def test_no_table_on_a_page_is_wider_than_the_page(learned: Learned) -> None:
    for name in NAMES:
        for key, table in learned.page(name).items():
            if isinstance(table, dg.TableMetadataValue):
                columns = [
                    [column.name, *(str(row.data[column.name]) for row in table.records)] for column in table.schema.columns
                ]
                assert width(columns) <= ROOM, (name, key)
    header = learned.page("forecasts")["next runs in full"].split("\n")[0]
    assert width([[name] for name in header.strip("|").split("|")]) > ROOM, "control: the table behind the link has no room"


def test_every_table_has_a_schema_of_all_its_columns(learned: Learned) -> None:
    for name in NAMES:
        for table in learned.page(name).values():
            if isinstance(table, dg.TableMetadataValue):
                assert {column.name for column in table.schema.columns} == set(table.records[0].data)


def test_its_checks_are_evaluated_and_only_warn(learned: Learned) -> None:
    checks = {check.check_name: check for check in learned.result.get_asset_check_evaluations()}
    assert {(check.asset_key.path[-1], name) for name, check in checks.items()} == {
        ("history", "all_rows_landed"), ("forecasts", "error_within_best_rule"), ("forecasts", "deadlines_kept"),
        ("findings", "no_new_findings"), ("findings", "steps_as_before"),
    }  # fmt: skip
    assert {check.severity for check in checks.values()} == {dg.AssetCheckSeverity.WARN}
    assert str(checks["error_within_best_rule"].description).startswith("Unknown")
    assert [checks[name].passed for name in ("all_rows_landed", "error_within_best_rule", "no_new_findings")] == [
        True,
        True,
        False,
    ]


def test_a_slower_step_fails_a_check_that_shows_its_runs(
    tmp_path: Path, instance: dg.DagsterInstance, instance_home: Path
) -> None:
    history = FOREIGN["Made"]()
    for number, at in enumerate(FOREIGN["hours"](200)):
        history.run("orders", at, {"load": 60.0 if number >= 150 else 40.0}, version=2 if number >= 150 else 1)
    with writer(instance_home) as landed:
        landed.upsert(Run, [Run(**row) for row in history.runs])
        landed.upsert(StepAttempt, [StepAttempt(**row) for row in history.attempts])
    result = learn(workbench(), instance)
    (check,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "steps_as_before"]
    assert not check.passed
    assert "Step 'load' of 'orders' became slower: 40 s before, 6" in str(check.description)
    said = {name: value.value for name, value in check.metadata.items()}
    assert said["lasting changes for the worse"] == 1
    assert str(said["orders / load"]).startswith("![orders load, seconds by run](<data:image/svg+xml,")
    assert len(str(said["orders / load"])) <= LONGEST
    assert "It coincides with another workflow version (1 before, 2 since" in str(said["orders / load, in full"])
    assert "| r00150 | 2026-01-11" in str(said["orders / load, in full"])


def test_when_a_finding_was_first_seen_is_carried_from_run_to_run(learned: Learned) -> None:
    before = learned.page("findings")["first seen"]
    assert before
    learn(learned.defs, learned.instance)
    event = learned.instance.get_latest_materialization_event(asset_key("findings"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["first seen"].value == before


def test_a_run_that_did_not_land_is_told_of(learned: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    learned.defs.resolve_job_def("doubling").execute_in_process(instance=learned.instance)
    (result,) = asset_results.history(learned.instance, learned.home)
    (check,) = result.check_results
    assert check.passed  # it ended just now
    monkeypatch.setattr(asset_results, "LATE_S", 0.0)
    (result,) = asset_results.history(learned.instance, learned.home)
    (check,) = result.check_results
    assert not check.passed
    assert "have not landed" in str(check.description)
    sync_events(learned.home, learned.home)
    (result,) = asset_results.history(learned.instance, learned.home)
    assert result.check_results[0].passed


@dg.io_manager
def cannot_be_opened(_: dg.InitResourceContext) -> dg.IOManager:
    raise ConnectionError("no warehouse from here")


def test_no_value_is_stored_and_the_users_io_manager_is_not_even_opened(
    instance: dg.DagsterInstance, instance_home: Path
) -> None:
    @dg.asset
    def theirs() -> int:
        return 1

    mine = dg.Definitions(
        assets=[theirs], resources={"io_manager": cannot_be_opened}, jobs=[dg.define_asset_job("own", "theirs")]
    )
    defs = dg.Definitions.merge(mine, workbench())
    assert learn(defs, instance).success
    assert [path for path in (instance_home / "storage").rglob("*") if path.is_file() and "compute_logs" not in path.parts] == []
    with pytest.raises(dg.DagsterResourceFunctionError):  # control: a job that keeps values does open it
        defs.resolve_job_def("own").execute_in_process(instance=instance)


@pytest.mark.parametrize(
    ("assets", "checks", "made", "checked"),
    [
        (["findings"], [("findings", "no_new_findings")], {"findings"}, {"no_new_findings"}),
        ([], [("findings", "steps_as_before")], set(), {"steps_as_before"}),
        (["forecasts"], [], {"forecasts"}, set()),
        ([], [("history", "all_rows_landed")], set(), {"all_rows_landed"}),
    ],
)
def test_some_of_them_can_be_made_alone(
    learned: Learned, assets: list[str], checks: list[tuple[str, str]], made: set[str], checked: set[str]
) -> None:
    picked = learned.defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(map(asset_key, assets)),
        asset_check_selection={dg.AssetCheckKey(asset_key(asset), name) for asset, name in checks},
    )
    result = picked.execute_in_process(instance=learned.instance)
    assert {event.asset_key.path[-1] for event in result.get_asset_materialization_events()} == made
    assert {check.check_name for check in result.get_asset_check_evaluations()} == checked


@dg.asset
def theirs() -> int:
    return 1


@dg.asset(deps=[asset_key("forecasts")])
def after_ours() -> int:
    return 1


@dg.schedule(cron_schedule="@daily", target="*")
def all_each_day() -> dg.RunRequest:
    return dg.RunRequest()


EVERYTHING = {
    "everything": dg.define_asset_job("everything", "*"),
    "all_but_one": dg.define_asset_job("all_but_one", dg.AssetSelection.all() - dg.AssetSelection.assets("after_ours")),
    "what_is_before": dg.define_asset_job("what_is_before", "+key:after_ours"),
    "only_ours": dg.define_asset_job("only_ours", dg.AssetSelection.key_prefixes("workflows")),
}


def everything() -> dg.Definitions:
    return dg.Definitions(assets=[theirs, after_ours], jobs=list(EVERYTHING.values()), schedules=[all_each_day])


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("everything", {"theirs", "after_ours"}),
        ("all_but_one", {"theirs"}),
        ("what_is_before", {"after_ours"}),
        ("__anonymous_asset_job_all_each_day", {"theirs", "after_ours"}),
        ("only_ours", {f"workflows/{name}" for name in NAMES}),
    ],
)
def test_a_users_job_of_all_assets_takes_none_of_ours_along(job: str, expected: set[str]) -> None:
    def takes(defs: dg.Definitions) -> set[str]:
        return {key.to_user_string() for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}

    joined = dg.Definitions.merge(instrument(everything(), tuning=None), workbench())
    assert takes(joined) == expected
    twice = dg.Definitions.merge(instrument(instrument(everything())), workbench())
    assert takes(twice) == expected
    control = takes(dg.Definitions.merge(everything(), workbench()))
    assert control >= expected
    assert (control == expected) == (job == "only_ours")


def test_a_job_of_all_assets_is_to_dagster_what_it_was_before() -> None:
    mine = dg.Definitions(assets=[theirs], jobs=[EVERYTHING["everything"]], schedules=[all_each_day])
    alone, joined = shown(mine), shown(dg.Definitions.merge(instrument(mine), workbench()))
    kept = {name for name in alone if name.endswith(("everything", "all_each_day"))}
    assert len(kept) == 4
    assert {name: joined[name] for name in kept} == {name: alone[name] for name in kept}


def test_where_nothing_is_instrumented_a_job_of_all_assets_learns_nothing_and_is_not_failed_by_it(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    no_folder = tmp_path / "a file"
    no_folder.touch()
    mine = dg.Definitions(assets=[theirs], jobs=[dg.define_asset_job("everything", "*")])
    defs = dg.Definitions.merge(mine, workbench(no_folder))
    result = defs.resolve_job_def("everything").execute_in_process(instance=instance)
    assert [event.asset_key for event in result.get_asset_materialization_events()] == [dg.AssetKey("theirs")]
    with pytest.raises(dg.Failure):  # control: learning would fail where there is no such folder
        learn(defs, instance)


def test_an_instance_in_memory_is_told_what_to_do() -> None:
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(dg.Failure) as told:
        learn(workbench(), instance)
    assert told.value.description == IN_MEMORY


def test_merged_definitions_keep_everything_of_the_users(foreign: ModuleType) -> None:
    alone = shown(foreign.definitions())
    merged = dg.Definitions.merge(foreign.definitions(), workbench())
    dg.Definitions.validate_loadable(merged)
    both = shown(merged)
    kept = {name for name in alone if name != "location" and not name.endswith("__ASSET_JOB")}
    assert {name: both[name] for name in kept} == {name: alone[name] for name in kept}
    assert {name.split(" ")[1] for name in set(both) - set(alone)} == {LEARNING_JOB}
    assert merged.executor is foreign.definitions().executor
    assert merged.resolve_job_def(LEARNING_JOB).executor_def is dg.in_process_executor
    assert shown(foreign.definitions()) == alone  # and without the line nothing is left


def test_two_code_locations_with_their_own_executors_and_resources_merge() -> None:
    @dg.logger
    def own(_: dg.InitLoggerContext) -> Any:
        raise AssertionError("not asked")

    mine = dg.Definitions(
        executor=dg.in_process_executor, loggers={"own": own}, resources={"workflows": "a name near ours", "io_manager": cannot_be_opened},
        schedules=[dg.ScheduleDefinition(name="workflows", target="*", cron_schedule="@daily")],
    )  # fmt: skip
    dg.Definitions.validate_loadable(dg.Definitions.merge(workbench(), mine))
    with pytest.raises(dg.DagsterInvariantViolationError):  # control: two of one kind are refused, so bringing one would be
        dg.Definitions.merge(workbench(), mine, dg.Definitions(executor=dg.multiprocess_executor))


def test_an_instance_with_past_results_loads_without_the_line(learned: Learned, foreign: ModuleType) -> None:
    without = foreign.definitions()
    assert not [key for key in without.resolve_asset_graph().get_all_asset_keys() if key.path[0] == "workflows"]
    assert without.resolve_job_def("doubling").execute_in_process(instance=learned.instance).success
    assert learned.instance.get_latest_materialization_event(asset_key("forecasts")) is not None
    assert learned.instance.get_records_for_run(learned.result.run_id).records


LOADS = """
import sys, time
import dagster as dg
begun = time.process_time()
from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.workbench import workbench
defs = dg.Definitions.merge(instrument(dg.Definitions(), tuning=sys.argv[2]), workbench())
repository = defs.get_repository_def()
loaded = time.process_time() - begun
heavy = {"duckdb", "numpy", "pandas", "plotly", "pyarrow", "scipy", "sklearn"}
print(f"loaded in {loaded:.2f} s of processor time;", sorted(heavy & set(sys.modules)))
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    for name in ("workflows_history_sync", "workflows_learning"):
        begun = time.process_time()
        with dg.build_sensor_context(instance=instance) as context:
            data = repository.get_sensor_def(name).evaluate_tick(context)
        print(f"{name} in {time.process_time() - begun:.2f} s: {data.skip_message}")
print(sorted({"plotly", "scipy", "sklearn"} & set(sys.modules)))
import workflows_pkg.workbench.asset_results
print(sorted(heavy & set(sys.modules)))
"""


def test_loading_imports_nothing_heavy_and_a_tick_no_scikit_learn(learned: Learned, tmp_path: Path) -> None:
    tuning = tmp_path / "tuning.yaml"
    tuning.write_text("job:nobody: {timeout: 1h}\n")
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADS, str(learned.home), str(tuning)], capture_output=True, text=True, check=True
    ).stdout
    sys.stdout.write(said)  # shown with -s
    loaded, *_, after_ticks, control = said.splitlines()
    assert loaded.endswith("time; []")
    assert after_ticks == "[]"
    assert control == "['duckdb', 'numpy', 'pandas', 'plotly', 'pyarrow', 'scipy']"
