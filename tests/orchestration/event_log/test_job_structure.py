"""What the steps of a job wait for lands with its runs, as Dagster's own execution plan has it; and a run's critical path follows it."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import dagster as dg
import pytest

from workflows_pkg.history.questions import critical_path, read
from workflows_pkg.history.records import JobStep
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.instance import create_instance
from workflows_pkg.orchestration.job_structure import job_steps, memory_limit_mib


@dg.op(out=dg.DynamicOut())
def fan():
    yield dg.DynamicOutput(1, "a")
    yield dg.DynamicOutput(2, "b")


@dg.op
def one(x):
    return x


@dg.op
def gather(xs):
    return 1


@dg.op(ins={"after": dg.In(dg.Nothing)})
def done():
    pass


@dg.graph
def inner(x):
    return one.alias("second")(one(x))


@dg.graph(out={"collected": dg.GraphOut(), "deep": dg.GraphOut()})
def outer():
    collected = gather(fan().map(one).collect())
    return {"collected": collected, "deep": inner.alias("again")(inner(collected))}


@dg.job
def nested():
    collected, deep = outer()
    done([collected, deep])


@dg.asset
def raw():
    return 1


@dg.asset(deps=[raw])
def clean():
    return 1


@dg.asset
def told(raw, clean):
    return 1


ASSETS = dg.Definitions(assets=[raw, clean, told], jobs=[dg.define_asset_job("all_assets")]).resolve_job_def("all_assets")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_instance(tmp_path)
    return tmp_path


def from_the_plan(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, list[str]]:
    """What each step waits for, by the steps of Dagster's execution plan."""
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    bare = lambda key: re.sub(r"\[.*\]$", "", key)  # noqa: E731
    return {
        bare(step.key): sorted({bare(handle.step_key) for given in step.inputs for handle in given.upstream_output_handles})
        for step in plan.steps
    }


@dg.op(tags={"dagster-k8s/config": {"container_config": {"resources": {"limits": {"memory": "512Mi"}}}}})
def tight() -> None: ...


@dg.op(tags={"dagster-k8s/config": {"container_config": {"resources": {"requests": {"memory": "512Mi"}}}}})
def only_asks() -> None: ...


@dg.op
def free() -> None: ...


@dg.job
def limited() -> None:
    tight()
    only_asks()
    free()


@pytest.mark.parametrize("job", [nested, ASSETS], ids=["nested graphs and mapped steps", "assets"])
def test_steps_wait_for_what_the_execution_plan_says(home: Path, job: dg.JobDefinition) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = job.execute_in_process(instance=instance).dagster_run
        sync_events(home, home)
        with open_history(home) as con:
            rows = read(con, JobStep)
            path = critical_path(con, run.run_id)
        assert {row.step: json.loads(row.needs) for row in rows} == from_the_plan(instance, run)
        assert {row.job_snapshot_id for row in rows} == {run.job_snapshot_id}
        assert set(path["basis"]) == {"dependencies"}
        assert path["step_key"].iloc[-1] == ("done" if job is nested else "told")
        job.execute_in_process(instance=instance)
        sync_events(home, home)
        with open_history(home) as con:
            assert read(con, JobStep) == rows


@pytest.mark.parametrize("stored", [b"", b"not zlib", zlib.compress(b"{}"), zlib.compress(b"[1]")])
def test_a_snapshot_that_cannot_be_read_gives_no_steps(stored: bytes) -> None:
    assert job_steps("id", stored) == []


def test_the_memory_that_a_step_is_allowed_is_read_from_its_tags(home: Path) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        limited.execute_in_process(instance=instance)
        sync_events(home, home)
        with open_history(home) as con:
            found = {row.step: row.memory_limit_mib for row in read(con, JobStep)}
    assert found == {"tight": 512.0, "only_asks": None, "free": None}


@pytest.mark.parametrize(
    ("stated", "mib"),
    [
        ("1Gi", 1024.0),
        ("1048576k", 1000.0),
        ("1e9", 953.67431640625),
        (2**21, 2.0),
        ("512", 512 / 2**20),
        ("lots", None),
        ("0", None),
    ],
)
def test_a_limit_is_read_as_kubernetes_does(stated: object, mib: float | None) -> None:
    tags = {"dagster-k8s/config": json.dumps({"container_config": {"resources": {"limits": {"memory": stated}}}})}
    assert memory_limit_mib(tags) == (pytest.approx(mib) if mib is not None else None)
    assert memory_limit_mib({"dagster-k8s/config": "not json"}) is None
