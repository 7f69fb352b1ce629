"""One line adds one event to every attempt of somebody else's steps, and changes nothing else that Dagster shows."""

from __future__ import annotations

import importlib
import inspect
import platform
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.decorators.op_decorator import DecoratedOpFunction
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.workspace.autodiscovery import loadable_targets_from_loaded_module
from dagster_shared.check import CheckError

from tests.pages import ROOT
from tests.workbench.reading import attempts, kinds, policies, run, run_tags, shown, used
from workflows_pkg.errors import SetupError
from workflows_pkg.orchestration.metering import is_metered
from workflows_pkg.workbench.instrument import KEPT, instrument
from workflows_pkg.workbench.rebuild import PRIVATE, PRIVATE_METHODS, Changes, rebuilt
from workflows_pkg.workbench.workbench import workbench

pytestmark = [
    pytest.mark.filterwarnings("ignore:Parameter `"),  # Dagster's own, about what it calls preview or beta
    pytest.mark.filterwarnings("ignore:.*is currently in (beta|preview)"),
]

NIGHTLY = [("yields_one", 1), ("awaits", 1), ("yields_later", 1), ("without_decorator", 1), ("fan", 1), ("leaf[a]", 1)]
NIGHTLY += [("leaf[b]", 1), ("leaf[b]", 2), ("gather", 1), ("says_done", 1)]
SELECTED = [dg.AssetKey(name) for name in ("customers", "rates", "orders", "totals", "from_a_graph")]


@pytest.mark.parametrize(
    ("job", "how", "expected"),
    [
        pytest.param("doubling", {}, [("one", 1), ("double", 1), ("double_2", 1), ("measures_itself", 1)], id="op job"),
        pytest.param("nightly", {}, NIGHTLY, id="every sort of op, mapped steps, a retry that the op asks for"),
        pytest.param("failing", {}, [("one", 1), ("fails", 1)], id="failing job that only a schedule and a sensor hold"),
        pytest.param("graph_job", {}, [("one", 1), ("inner.double", 1), ("inner.double_2", 1)], id="graph in a graph"),
        pytest.param("graph_job_again", {}, [("one", 1), ("inner.double", 1), ("inner.double_2", 1)], id="the same graph again"),
        pytest.param(
            "asset_job",
            {},
            [("orders", 1), ("orders_orders_are_there", 1), ("totals", 1), ("totals", 2), ("totals_are_good", 1)],
            id="asset job with checks and an attempt that is retried",
        ),
        pytest.param("visits_job", {"partition_key": "2026-01-05"}, [("visits", 1)], id="partition"),
        pytest.param(
            "__ASSET_JOB",
            {"asset_selection": SELECTED},
            [
                *[(name, 1) for name in ("people", "rates", "orders", "orders_orders_are_there", "totals_are_good", "totals")],
                *[("totals", 2), ("from_a_graph.one", 1), ("from_a_graph.double", 1)],
            ],
            id="materialized from the UI: part of a multi-asset, an async asset, a graph",
        ),
        pytest.param(
            "__ASSET_JOB", {"asset_selection": [dg.AssetKey("files_elsewhere")]}, [("looks_elsewhere", 1)], id="observation"
        ),
        pytest.param(
            "__anonymous_asset_job_by_target",
            {},
            [("held_by_a_schedule", 1), ("orders", 1), ("orders_orders_are_there", 1)],
            id="asset that only a schedule holds",
        ),
    ],
)
def test_every_attempt_is_metered_once_and_nothing_else_happens(
    foreign: ModuleType, instance: dg.DagsterInstance, job: str, how: dict[str, Any], expected: list[tuple[str, int]]
) -> None:
    plain = kinds(instance, run(foreign.definitions(), job, instance, **how))
    run_id = run(foreign.instrumented(), job, instance, **how)
    assert sorted(attempts(instance, run_id)) == sorted(expected)
    more = Counter(kinds(instance, run_id)) - Counter(plain)
    own = ("measures_itself", 1) in expected
    assert more == {"ENGINE_EVENT": len(expected) - own}
    assert Counter(plain) - Counter(kinds(instance, run_id)) == Counter()


def test_what_dagster_shows_is_the_same(foreign: ModuleType) -> None:
    plain, new = foreign.definitions(), foreign.instrumented()
    assert shown(new) == shown(plain)
    assert policies(new) == policies(plain)
    assert run_tags(new) == run_tags(plain)
    assert new.metadata == plain.metadata
    assert (new.resources, new.executor, new.loggers) == (plain.resources, plain.executor, plain.loggers)
    for before, after in zip(plain.get_repository_def().sensor_defs, new.get_repository_def().sensor_defs, strict=True):
        assert type(after) is type(before)


def test_control_the_comparison_sees_a_tag(foreign: ModuleType) -> None:
    plain = foreign.definitions()
    job = foreign.doubling.with_metadata({"seen": "yes"})
    changed = dg.Definitions(jobs=[job], assets=plain.assets, resources=plain.resources)
    assert shown(changed) != shown(dg.Definitions(jobs=[foreign.doubling], assets=plain.assets, resources=plain.resources))


def test_without_the_line_nothing_is_metered(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    foreign.instrumented()  # makes copies; the definitions it was given stay as they were
    defs = foreign.definitions()
    assert attempts(instance, run(defs, "asset_job", instance)) == []
    assert attempts(instance, run(defs, "graph_job", instance)) == []


def test_instrumenting_twice_is_instrumenting_once(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    once = instrument(foreign.definitions())
    twice = instrument(once)
    for name in ("assets", "asset_checks", "jobs", "schedules", "sensors"):
        assert all(before is after for before, after in zip(getattr(once, name), getattr(twice, name), strict=True)), name
    assert attempts(instance, run(twice, "graph_job", instance)) == attempts(instance, run(once, "graph_job", instance))


def test_the_schedule_and_the_list_hold_the_same_copy(foreign: ModuleType) -> None:
    new = foreign.instrumented()
    listed = next(job for job in new.jobs or [] if job.name == "doubling")
    schedule = next(schedule for schedule in new.schedules or [] if schedule.name == "every_morning")
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.job is listed
    assert listed is not foreign.doubling


def test_a_job_of_some_of_its_ops_is_metered(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    new = instrument(dg.Definitions(jobs=[foreign.only_double]))
    assert attempts(instance, run(new, "doubling", instance)) == [("one", 1), ("double", 1)]


@pytest.mark.filterwarnings("ignore:Property `OpDefinition.version`")  # Dagster's own way with such assets
def test_an_observed_source_is_metered(instance: dg.DagsterInstance) -> None:
    @dg.observable_source_asset
    def elsewhere() -> dg.DataVersion:
        return dg.DataVersion("7")

    plain = dg.Definitions(assets=[elsewhere])
    new = instrument(plain)
    assert shown(new) == shown(plain)
    assert attempts(instance, run(new, "__ASSET_JOB", instance)) == [("elsewhere", 1)]


def test_schedules_and_sensors_still_run_their_functions(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    repository = foreign.instrumented().get_repository_def()
    with dg.build_sensor_context(instance=instance, repository_def=repository, resources=foreign.RESOURCES) as context:
        assert repository.get_sensor_def("looks_around").evaluate_tick(context).skip_message == "nothing there"
        found = repository.get_sensor_def("finds_files").evaluate_tick(context)
    assert [request.tags["file"] for request in found.run_requests] == ["a.csv", "b.csv"]
    with dg.build_schedule_context(instance=instance, repository_def=repository) as context:
        asked = repository.get_schedule_def("asks_to_fail").evaluate_tick(context)
    assert [request.tags["mine"] for request in asked.run_requests] == ["1"]


def test_the_users_frames_and_error_are_the_same(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    def failure(defs: dg.Definitions) -> tuple[str, str, list[str]]:
        run_id = run(defs, "failing", instance)
        events = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event]
        error = next(event.step_failure_data.error for event in events if event.is_step_failure)
        assert error.cause is not None
        return error.message, error.cause.message, [line for line in error.cause.stack if "metering.py" not in line]

    plain, new = failure(foreign.definitions()), failure(foreign.instrumented())
    assert new[:2] == plain[:2] == (plain[0], "ValueError: cannot use 1\n")
    assert [line.split("\n")[0] for line in new[2]] == [line.split("\n")[0] for line in plain[2]]
    assert "foreign_project.py" in new[2][-1]


def test_called_directly_an_instrumented_op_is_the_users_function(foreign: ModuleType) -> None:
    new = foreign.instrumented()
    job = next(job for job in new.jobs or [] if job.name == "doubling")
    assert job.graph.node_named("double").definition(4) == 8


def test_a_metered_function_looks_like_the_users(foreign: ModuleType) -> None:
    job = next(job for job in foreign.instrumented().jobs or [] if job.name == "nightly")
    for node in job.graph.nodes:
        body = node.definition.compute_fn
        made = body.decorated_fn if isinstance(body, DecoratedOpFunction) else body
        assert is_metered(made)
        assert inspect.signature(made) == inspect.signature(made.__wrapped__)
        for sort in (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction):
            assert sort(made) == sort(made.__wrapped__), (node.name, sort)


def test_assets_that_report_for_themselves_are_left_alone() -> None:
    @dg.asset(op_tags={"workflows/metered": "body"})
    def reports() -> int:
        return 1

    new = instrument(dg.Definitions(assets=[reports]))
    assert list(new.assets or []) == [reports]


def test_empty_definitions_stay_empty() -> None:
    new = instrument(dg.Definitions())
    assert (new.assets, new.jobs, new.schedules, new.sensors, new.asset_checks) == (None, None, None, None, None)


def test_they_merge_with_others_and_with_the_workbench(foreign: ModuleType) -> None:
    @dg.asset
    def other() -> int:
        return 1

    dg.Definitions.validate_loadable(dg.Definitions.merge(foreign.instrumented(), workbench(), dg.Definitions(assets=[other])))


def test_definitions_that_are_built_when_loaded(foreign: ModuleType, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    built: list[str] = []

    @dg.definitions
    def later() -> dg.Definitions:
        built.append("now")
        return foreign.definitions()

    lazy = instrument(later)
    assert built == []
    assert attempts(instance, run(lazy(), "graph_job", instance))
    assert built == ["now"]
    assert type(lazy) is type(later)
    with pytest.raises(CheckError, match=r"cannot be merged here\. Write inside of the function: return .*merge\(instrument\("):
        dg.Definitions.merge(lazy, workbench())  # type: ignore[arg-type]


def test_definitions_that_a_component_makes(instance: dg.DagsterInstance, foreign: ModuleType) -> None:
    def described(context: dg.ComponentLoadContext) -> dg.Definitions:
        return dg.Definitions(jobs=[foreign.graph_job], resources=foreign.RESOURCES, metadata={"at": str(context.path)})

    described.__annotations__["context"] = dg.ComponentLoadContext  # as it is where annotations are not postponed
    later = dg.definitions(described)
    context = dg.ComponentTree.for_test().load_context
    made = instrument(later)(context)
    assert made.metadata == later(context).metadata
    assert attempts(instance, run(made, "graph_job", instance))


BESIDE = """
import dagster as dg
from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.workbench import workbench

@dg.asset
def theirs():
    return 1
"""
INSIDE = """
@dg.definitions
def defs():
    return dg.Definitions.merge(instrument(dg.Definitions(assets=[theirs])), workbench())
"""
PASSED_OVER = """
@dg.definitions
def mine():
    return dg.Definitions(assets=[theirs])

defs = dg.Definitions.merge(instrument(mine()), workbench())
"""


def test_a_line_that_dagster_would_pass_over_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "line_inside.py").write_text(BESIDE + INSIDE)
    (loaded,) = loadable_targets_from_loaded_module(importlib.import_module("line_inside"))
    assert loaded.attribute == "defs"
    (tmp_path / "passed_over.py").write_text(BESIDE + PASSED_OVER)
    with pytest.raises(SetupError, match=r"loads the function 'mine'.*Write the line inside of 'mine': return"):
        importlib.import_module("passed_over")
    # control: without the error, Dagster loads what has no workbench, and says nothing
    (tmp_path / "passed_over_silently.py").write_text((BESIDE + PASSED_OVER).replace("instrument(mine())", "mine()"))
    (loaded,) = loadable_targets_from_loaded_module(importlib.import_module("passed_over_silently"))
    assert loaded.attribute == "mine"


@dg.asset
def an_asset() -> int:
    return 1


@dg.repository
def old_fashioned() -> list[Any]:
    return [an_asset]


@pytest.mark.parametrize("given", [an_asset, old_fashioned, None])
def test_what_is_no_definitions_is_refused_with_what_to_write(given: Any) -> None:
    with pytest.raises(SetupError, match=r"instrument takes dagster\.Definitions, not .*dagster\.Definitions\(assets="):
        instrument(given)
    with pytest.raises(SetupError, match="not int"):
        instrument(lambda: 3)()  # type: ignore[arg-type,return-value]


SCAFFOLDED = {
    "pyproject.toml": '[project]\nname = "{0}"\n[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{0}"\n',
    "src/{0}/__init__.py": "",
    "src/{0}/defs/__init__.py": "",
    "src/{0}/defs/found.py": "import dagster as dg\n\n@dg.asset\ndef found() -> int:\n    return 1\n",
    "src/{0}/defs/daily.py": "import dagster as dg\n\n@dg.schedule(cron_schedule='@daily', target='*')\ndef daily():\n    return {{}}\n",
}
"""What `create-dagster project` and `dg scaffold defs` write, without comments."""


def scaffolded(place: Path, name: str) -> Path:
    for path, text in SCAFFOLDED.items():
        file = place / path.format(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(name))
    return place / "src" / name


def test_the_documented_module_in_a_scaffolded_project(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "add-to-your-dagster.md").read_text()
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "load_from_defs_folder(" in block]
    (scaffolded(tmp_path, "of_a_new_user") / "definitions.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    (loaded,) = loadable_targets_from_loaded_module(importlib.import_module("of_a_new_user.definitions"))
    assert loaded.attribute == "defs"
    defs = loaded.target_definition()
    dg.Definitions.validate_loadable(defs)
    assert attempts(instance, run(defs, "__anonymous_asset_job_daily", instance)) == [("found", 1)]
    assert {"workflows_history_sync", "workflows_learning"} <= {sensor.name for sensor in defs.sensors}


def test_a_folder_of_definitions(instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = scaffolded(tmp_path, "of_somebody")
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    new = instrument(dg.load_from_defs_folder(path_within_project=package))
    assert new.component_tree is not None
    assert attempts(instance, run(new, "__ASSET_JOB", instance)) == [("found", 1)]


def test_what_cannot_be_copied_stays_and_is_told(
    foreign: ModuleType, instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(dg.OpDefinition):
        def __copy__(self) -> dg.OpDefinition:
            raise TypeError("there is only one of me")

    def body(context, inputs):
        yield dg.Output(1)

    odd = Odd(compute_fn=body, name="odd")

    @dg.job
    def has_an_odd_one() -> None:
        foreign.double(odd())

    new = instrument(dg.Definitions(jobs=[has_an_odd_one, foreign.graph_job, foreign.eating], resources=foreign.RESOURCES))
    assert "has_an_odd_one" in str(new.metadata[KEPT].value)
    assert "there is only one of me" in caplog.text
    assert attempts(instance, run(new, "has_an_odd_one", instance)) == []
    # the op it shares with another job stays as it is there too: Dagster has one definition of a name
    assert attempts(instance, run(new, "graph_job", instance)) == [("one", 1)]
    assert len(attempts(instance, run(new, "eating", instance))) == 2


def test_a_broken_measurement_does_not_break_the_step(
    foreign: ModuleType, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("this machine has no name")

    defs = foreign.instrumented()
    with monkeypatch.context() as patch:
        patch.setattr(platform, "node", refuse)
        run_id = run(defs, "eating", instance)
    record = instance.get_run_by_id(run_id)
    assert record is not None
    assert attempts(instance, run_id) == []


def test_an_output_that_cannot_be_kept_still_leaves_its_measurement(instance: dg.DagsterInstance) -> None:
    class Refuses(dg.IOManager):
        def handle_output(self, context: dg.OutputContext, obj: object) -> None:
            raise OSError("the disk is full")

        def load_input(self, context: dg.InputContext) -> None:
            return None

    @dg.op
    def returns_it() -> int:
        return 1

    @dg.op(out=dg.Out(int))
    def yields_it() -> Any:
        yield dg.Output(1)

    @dg.job(resource_defs={"io_manager": dg.IOManagerDefinition.hardcoded_io_manager(Refuses())})
    def keeps_nothing() -> None:
        returns_it()
        yields_it()

    assert sorted(attempts(instance, run(instrument(dg.Definitions(jobs=[keeps_nothing])), "keeps_nothing", instance))) == [
        ("returns_it", 1),
        ("yields_it", 1),
    ]


@pytest.mark.parametrize("start_method", [pytest.param("spawn", marks=pytest.mark.long), "forkserver"])
def test_in_a_process_of_its_own_a_step_has_its_own_memory(
    foreign: ModuleType, instance: dg.DagsterInstance, start_method: str
) -> None:
    job = ReconstructableJob.for_file(str(foreign.FILE), "instrumented_eating")
    config = {"execution": {"config": {"start_method": {start_method: {}}, "max_concurrent": 2}}}
    with dg.execute_job(job, instance, run_config=config) as result:
        measured = {step: data for step, _, data in used(instance, result.run_id)}
    assert set(measured) == {"hungry", "one"}
    assert all(data["workflows/dedicated"] for data in measured.values())
    more = measured["hungry"]["workflows/peak_memory_mib"] - measured["one"]["workflows/peak_memory_mib"]
    assert 110 < more < 200  # the op held 120 MiB
    assert measured["hungry"]["workflows/process_id"] != measured["one"]["workflows/process_id"]
    assert all(data["workflows/cpu_s"] >= 0 for data in measured.values())


def test_under_its_own_executor_every_attempt_is_metered_once(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    job = ReconstructableJob.for_file(str(foreign.FILE), "instrumented_nightly")
    with dg.execute_job(job, instance, run_config={"execution": {"config": {"start_method": {"forkserver": {}}}}}) as result:
        assert result.success
        assert sorted(attempts(instance, result.run_id)) == sorted(NIGHTLY)


def test_a_process_made_for_one_step_loads_nothing_heavy_for_it() -> None:
    """It imports the user's module, and so `instrument`, before every step."""
    said = subprocess.run(
        [sys.executable, "-c", "import sys; import workflows_pkg.workbench.instrument; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "dagster" in said  # control: the list is what was loaded
    heavy = (
        "duckdb",
        "pandas",
        "pyarrow",
        "sklearn",
        "scipy",
        "plotly",
        "workflows_pkg.spec.model",
        "workflows_pkg.history.store",
    )
    assert [name for name in heavy if name in said] == []


def test_control_in_a_shared_process_memory_is_unknown(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    measured = used(instance, run(foreign.instrumented(), "eating", instance))
    assert len(measured) == 2
    assert all("workflows/peak_memory_mib" not in data and not data["workflows/dedicated"] for _, _, data in measured)


def test_control_without_the_same_copy_for_all_dagster_refuses_the_location(foreign: ModuleType) -> None:
    """Two copies of one op have one name: made one by one, the jobs that share it cannot be loaded together."""
    changes = Changes(body=lambda op, body: (lambda: 1) if op.name == "one" else body)
    jobs = [
        job for name in (foreign.eating, foreign.failing) for job in rebuilt(dg.Definitions(jobs=[name]), changes).defs.jobs or []
    ]
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Conflicting definitions"):
        dg.Definitions.validate_loadable(dg.Definitions(jobs=jobs))
    together = rebuilt(dg.Definitions(jobs=[foreign.eating, foreign.failing]), changes).defs
    dg.Definitions.validate_loadable(together)


@pytest.mark.filterwarnings("ignore:Class `SourceAsset`")
def test_dagsters_private_names_are_where_they_were(foreign: ModuleType) -> None:
    examples: dict[type, Any] = {
        dg.OpDefinition: foreign.double,
        dg.GraphDefinition: foreign.as_a_graph,
        dg.AssetsDefinition: foreign.orders,
        dg.SourceAsset: dg.SourceAsset("elsewhere"),
        dg.ScheduleDefinition: foreign.every_morning,
        dg.SensorDefinition: foreign.looks_around,
        dg.JobDefinition: foreign.doubling,
        dg.AutomationConditionSensorDefinition: foreign.by_conditions,
        DecoratedOpFunction: foreign.double.compute_fn,
    }
    for kind, names in [*PRIVATE.items(), *PRIVATE_METHODS.items()]:
        for name in names:
            assert hasattr(examples[kind], name), f"{kind.__name__}.{name} moved"
    for kind, names in PRIVATE.items():
        assert set(names) <= set(vars(examples[kind])), kind
