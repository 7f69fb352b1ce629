"""A bench on which a test compiles a workflow of its own functions and runs it on a real instance."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import pytest
from pydantic import BaseModel, Field

from workflows_pkg.orchestration.compile import compile_workflow
from workflows_pkg.orchestration.compiled import CompiledWorkflow
from workflows_pkg.orchestration.launch import run_in_process
from workflows_pkg.security.allow import Allow
from workflows_pkg.spec.loader import load_value
from workflows_pkg.steps.contract import StepContext, StepKind, TakesSecret
from workflows_pkg.steps.discovery import StepKinds, discover

PROJECT = Path(__file__).parent / "project"


class _Does(BaseModel):
    """Parameters of the bench's own step kind."""

    model_config = {"extra": "forbid", "hide_input_in_errors": True}
    function: str = Field(description="The test's function.")
    value: Annotated[Any, TakesSecret()] = Field(None, description="What it is given.")
    number: Annotated[int, TakesSecret()] = Field(0, description="A number it is given.")


@dataclass
class Outcome:
    """A finished run with its events."""

    run: dg.DagsterRun
    entries: list[dg.EventLogEntry]

    @property
    def success(self) -> bool:
        return self.run.is_success

    def events(self, kind: str, step: str | None = None) -> list[dg.DagsterEvent]:
        """The events of one Dagster type, of all steps or of one."""
        return [
            entry.dagster_event
            for entry in self.entries
            if entry.dagster_event is not None
            and entry.dagster_event.event_type_value == kind
            and (step is None or (entry.dagster_event.step_key or "").endswith(f".{step}"))
        ]

    def steps(self, kind: str) -> list[str]:
        """The steps with an event of that type, in order."""
        return [(event.step_key or "").rsplit(".", 1)[-1] for event in self.events(kind)]

    def materialized(self) -> list[str]:
        return [event.asset_key.to_user_string() for event in self.events("ASSET_MATERIALIZATION") if event.asset_key]

    def error_classes(self, kind: str, step: str) -> list[str]:
        """Class names from the outermost error of the step's last such event to the innermost."""
        error = getattr(self.events(kind, step)[-1].event_specific_data, "error", None)
        names: list[str] = []
        while error is not None:
            names.append(error.cls_name)
            error = error.cause
        return names

    def text(self) -> str:
        """Everything that was written to the event log."""
        return "\n".join(f"{entry.user_message} {entry.to_json()}" for entry in self.entries)


@dataclass
class Bench:
    """Compiles workflows whose steps call the test's functions, each given its StepContext and parameters."""

    instance: dg.DagsterInstance
    home: Path
    files: Path
    functions: dict[str, Callable[[StepContext, Any], Any]] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    @property
    def kinds(self) -> StepKinds:
        does = StepKind(
            name="test.do",
            summary="Calls a function of the test.",
            params=_Does,
            run=lambda context, params: self.functions[params.function](context, params),
            example={"function": "a"},
        )
        return StepKinds({**discover().kinds, "test.do": does})

    @property
    def allow(self) -> Allow:
        return Allow(files=self.files, modules=("sample_steps",), secrets=self.secrets)

    def compile(self, spec: Mapping[str, Any], **more: Any) -> CompiledWorkflow:
        """The compiled workflow; a step without `uses` calls the function of its own name."""
        steps = {
            name: step if "uses" in step else {**step, "uses": "test.do", "with": {"function": name, **step.get("with", {})}}
            for name, step in spec["steps"].items()
        }
        workflow = load_value({"workflow": "bench", **spec, "steps": steps}, kinds=self.kinds.params())
        return compile_workflow(workflow, self.kinds, self.allow, home=self.home, **more)

    def run(self, spec: Mapping[str, Any], partition: str | None = None, tags: Mapping[str, str] | None = None) -> Outcome:
        """The outcome of one run in this process."""
        return self.outcome(run_in_process(self.compile(spec), self.instance, partition, tags))

    def outcome(self, run_id: str) -> Outcome:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return Outcome(run, list(self.instance.all_logs(run_id)))


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh instance's folder, to be copied: making its databases takes longer than most tests."""
    home = tmp_path_factory.mktemp("new") / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs(limit=1)
        instance.all_instigator_state()
        instance.get_latest_materialization_event(dg.AssetKey("none"))
    return home


@pytest.fixture
def bench(tmp_path: Path, new_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    home, files = tmp_path / "home", tmp_path / "files"
    shutil.copytree(new_home, home)
    files.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        yield Bench(instance, home, files)


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The sample project beside the tests, importable while the test runs."""
    monkeypatch.syspath_prepend(str(PROJECT))
    yield PROJECT
    for name in ("sample_location", "sample_steps"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def command_environment() -> dict[str, str]:
    """What commands typed by a test find in their environment: no home of their own, no telemetry."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "PYTHONWARNINGS")}
    return {**kept, "DAGSTER_DISABLE_TELEMETRY": "yes"}
