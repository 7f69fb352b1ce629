"""Which Dagster graph is a workflow? One op per step, and a last one whose output is the workflow's own asset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from workflows_pkg.orchestration.checks import check_specs
from workflows_pkg.orchestration.metering import METERED_TAG
from workflows_pkg.orchestration.retries import retry_policy
from workflows_pkg.orchestration.step_body import DECIDED, VALUE, StepPlan, step_function
from workflows_pkg.orchestration.values import RESOURCE_KEY

LAST = "done"
"""The last step of every workflow, which no step of a file may be called."""

_AFTER = "after"
_WORKFLOW = "workflow"
_ENDED = "ended"


@dataclass(frozen=True)
class StepGraph:
    """The ops of one workflow and what they produce: the graph, asset keys by output of the graph, and who depends on whom."""

    definition: dg.GraphDefinition
    keys: Mapping[str, dg.AssetKey]
    depends_on: Mapping[str, set[dg.AssetKey]]
    checks: list[dg.AssetCheckSpec]


def step_graph(
    name: str, op_prefix: str, plans: Mapping[str, StepPlan], workflow_key: dg.AssetKey, code_version: str | None
) -> StepGraph:
    """The graph of the steps' plans; a step's key in a run is `<name>__steps.<step>`.

    Op and graph definitions are named for the workflow, since Dagster wants their names unique in a code location. The graph
    cannot have the job's own name: the job is a graph as well.
    """
    specs = {
        step: check_specs(plan.step.checks, plan.asset, plan.partitions) if plan.asset else [] for step, plan in plans.items()
    }
    ops = [_op(f"{op_prefix}__{step}", plan, specs[step], code_version) for step, plan in plans.items()]
    dependencies: dict[dg.NodeInvocation, dict[str, dg.IDependencyDefinition]] = {
        dg.NodeInvocation(f"{op_prefix}__{step}", alias=step): {
            f"from_{needed}": dg.DependencyDefinition(needed, VALUE) for needed in plan.step.needs
        }
        for step, plan in plans.items()
    }
    dependencies[dg.NodeInvocation(f"{op_prefix}__{LAST}", alias=LAST)] = {
        _AFTER: dg.MultiDependencyDefinition([dg.DependencyDefinition(step, output) for step, output in _ends(plans)])
    }
    keys = {f"step_{step}": plan.asset for step, plan in plans.items() if plan.asset is not None}
    mappings = [dg.OutputMapping(f"step_{step}", step, VALUE) for step, plan in plans.items() if plan.asset is not None]
    for step, checks in specs.items():
        mappings += [dg.OutputMapping(check.get_python_identifier(), step, check.get_python_identifier()) for check in checks]
    definition = dg.GraphDefinition(
        name=f"{name}__steps",
        node_defs=[*ops, _collector(f"{op_prefix}__{LAST}")],
        dependencies=dependencies,
        output_mappings=[*mappings, dg.OutputMapping(_WORKFLOW, LAST, _ENDED)],
    )
    return StepGraph(
        definition=definition,
        keys={**keys, _WORKFLOW: workflow_key},
        depends_on={
            **{f"step_{step}": _nearest_assets(plans[step].step.needs, plans) for step in plans if plans[step].asset is not None},
            _WORKFLOW: _nearest_assets(tuple(_leaves(plans)), plans),
        },
        checks=[check for checks in specs.values() for check in checks],
    )


def _op(name: str, plan: StepPlan, checks: list[dg.AssetCheckSpec], code_version: str | None) -> dg.OpDefinition:
    conditional = plan.step.if_ is not None
    outs = {VALUE: dg.Out(io_manager_key=RESOURCE_KEY, is_required=not conditional)}
    if conditional:
        outs[DECIDED] = dg.Out(dg.Nothing)
    for check in checks:
        outs[check.get_python_identifier()] = dg.Out(dg.Nothing, is_required=False)
    return dg.OpDefinition(
        step_function(plan),
        name=name,
        ins={f"from_{needed}": dg.In() for needed in plan.step.needs},
        outs=outs,
        description=plan.kind.summary,
        tags={METERED_TAG: "body", "dagster/compute_kind": plan.step.uses},
        retry_policy=retry_policy(plan.step.retry),
        code_version=code_version,
    )


def _collector(name: str) -> dg.OpDefinition:
    return dg.OpDefinition(
        lambda context, inputs: iter([dg.Output(None, _ENDED)]),  # pyright: ignore[reportUnknownArgumentType]  Dagster's signature
        name=name,
        ins={_AFTER: dg.In(dg.Nothing)},
        # With the default IO manager, although nothing is kept: the "Materialize" button's job gives the outputs of a graph no
        # other, and refuses to run where no op of it asks for that one.
        outs={_ENDED: dg.Out(dg.Nothing)},
        description="Runs when every step has ended well or was skipped; its output is the workflow as an asset.",
        tags={METERED_TAG: "body"},
    )


def _ends(plans: Mapping[str, StepPlan]) -> Iterator[tuple[str, str]]:
    """The outputs that the collector waits for.

    A fan-in of Nothing is skipped only where all of it is, so a conditional step also says when it has decided. Every step
    with a follower that may be skipped is waited for itself: the skipped one does not wait for the rest of what it needs.
    """
    may_skip: set[str] = set()
    for step in in_order({name: plan.step.needs for name, plan in plans.items()}):
        if plans[step].step.if_ is not None or not may_skip.isdisjoint(plans[step].step.needs):
            may_skip.add(step)
    waiting = set(_leaves(plans)) | {needed for step in may_skip for needed in plans[step].step.needs}
    for step, plan in plans.items():
        if step in waiting:
            yield step, VALUE
        if plan.step.if_ is not None:
            yield step, DECIDED


def _leaves(plans: Mapping[str, StepPlan]) -> list[str]:
    needed = {name for plan in plans.values() for name in plan.step.needs}
    return [step for step in plans if step not in needed]


def in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The steps of a workflow, each after those it needs."""
    ordered: dict[str, None] = {}

    def place(step: str) -> None:
        if step not in ordered:
            for needed in needs[step]:
                place(needed)
            ordered[step] = None

    for step in needs:
        place(step)
    return list(ordered)


def _nearest_assets(steps: tuple[str, ...], plans: Mapping[str, StepPlan]) -> set[dg.AssetKey]:
    """The assets that `steps` give, going back through steps that produce none."""
    found: set[dg.AssetKey] = set()
    waiting, seen = list(steps), set(steps)
    while waiting:
        plan = plans[waiting.pop()]
        if plan.asset is not None:
            found.add(plan.asset)
            continue
        fresh = [needed for needed in plan.step.needs if needed not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return found
