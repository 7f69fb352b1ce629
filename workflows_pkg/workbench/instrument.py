"""How does one line add metering to every step of any code location?

    defs = instrument(dg.Definitions(...))

One hook goes onto every executable asset, asset check and job. Dagster keeps copies - a schedule or sensor holds the job object it was
made with, and one made directly from an asset holds the asset - so those are rebuilt around the same instrumented copies. What
the definitions compute, need and are called stays as it was; without the line they are as before.

One hook that looks at every attempt is used instead of a success hook and a failure hook: those two pass over attempts that
will be retried, and Dagster writes an event for each hook whether or not it had something to do. The cost per attempt is two events,
the measurement and Dagster's note that the hook ran. An attempt whose process died leaves none.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import dagster as dg

from workflows_pkg.orchestration.metering import METERED_TAG, report

_log = logging.getLogger(__name__)

Definition = TypeVar("Definition")


def _meter(context: dg.HookContext, events: Sequence[dg.DagsterEvent]) -> dg.HookExecutionResult:
    ran = any(event.is_step_start or event.is_step_restarted for event in events)
    attempt = _attempt(context)
    if not ran or attempt is None or (context.op.tags or {}).get(METERED_TAG) == "body":
        return dg.HookExecutionResult(hook_name=HOOK.name, is_skipped=True)
    failed = any(event.is_step_failure or event.is_step_up_for_retry for event in events)
    report(context, None, attempt, failed)
    return dg.HookExecutionResult(hook_name=HOOK.name, is_skipped=False)


def _attempt(context: Any) -> int | None:
    """1 for the first. No public name says it to a hook; where Dagster moved it, None: no measurement rather than a wrong one."""
    try:
        return context._step_execution_context.previous_attempt_count + 1
    except AttributeError:
        _log.debug("Dagster moved the number of the attempt; nothing is metered.", exc_info=True)
        return None


HOOK = dg.HookDefinition(name="workflows_metering", hook_fn=_meter)
"""Meters one attempt; does nothing for ops tagged `workflows/metered: body`, which do it themselves."""


def instrument(defs: dg.Definitions) -> dg.Definitions:
    """The same definitions, in which every step of every run reports what it used. Instrumenting twice is instrumenting once."""
    copies = _Copies()
    schedules, sensors = copies.all(defs.schedules), copies.all(defs.sensors)
    held = copies.all(_held_by_automation(defs))
    return dg.Definitions(
        assets=[*(copies.all(defs.assets) or []), *(held or [])] if held else copies.all(defs.assets),
        asset_checks=copies.all(defs.asset_checks),
        jobs=copies.all(defs.jobs),
        schedules=schedules,
        sensors=sensors,
        resources=defs.resources,
        executor=defs.executor,
        loggers=defs.loggers,
        metadata=defs.metadata,
        component_tree=defs.component_tree,
    )


def _held_by_automation(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    """Assets that only a schedule or sensor brings along (`target=[asset]`). Listed as assets, they are the ones Dagster takes."""
    listed = {key for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition) for key in asset.keys}
    automation = [schedule.target for schedule in defs.schedules or [] if isinstance(schedule, dg.ScheduleDefinition)]
    automation += [target for sensor in defs.sensors or [] for target in sensor.targets]
    found: dict[frozenset[dg.AssetKey], dg.AssetsDefinition] = {}
    for asset in (asset for target in automation for asset in target.assets_defs):
        if isinstance(asset, dg.AssetsDefinition) and not listed & set(asset.keys):
            found[frozenset(asset.keys)] = asset
    return list(found.values())


class _Copies:
    """Makes one instrumented copy of each definition, so that whoever held the same object before holds the same copy after."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Any]] = {}

    def all(self, definitions: Iterable[Definition] | None) -> list[Definition] | None:
        return None if definitions is None else [self.of(definition) for definition in definitions]

    def of(self, definition: Definition) -> Definition:
        if id(definition) not in self._made:
            self._made[id(definition)] = (
                definition,
                self._copy(definition),
            )  # keeps the original alive, so that its id stays its own
        return self._made[id(definition)][1]

    def _copy(self, definition: Any) -> Any:
        if isinstance(definition, dg.AssetsDefinition):
            return _asset(definition)
        if isinstance(definition, dg.JobDefinition):
            return definition if HOOK in definition.hook_defs or _all_metered(definition.graph) else definition.with_hooks({HOOK})
        if isinstance(definition, dg.ScheduleDefinition):
            return self._around_copies(definition, [definition.target])
        if isinstance(definition, dg.SensorDefinition):
            return self._around_copies(definition, definition.targets)
        return definition  # specs do not run; jobs that select assets run the assets' own hook

    def _around_copies(self, definition: Any, targets: Sequence[Any]) -> Any:
        """The schedule or sensor around instrumented copies of the jobs it holds."""
        jobs = [target.job_def for target in targets if target.has_job_def]
        new = [self.of(job) for job in jobs]
        if all(before is after for before, after in zip(jobs, new, strict=True)):
            return definition
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster's own copying sets a parameter that it calls beta
            return (
                definition.with_updated_jobs(new)
                if isinstance(definition, dg.SensorDefinition)
                else definition.with_updated_job(new[0])
            )


def _asset(definition: dg.AssetsDefinition) -> dg.AssetsDefinition:
    if not definition.is_executable or HOOK in definition.hook_defs or _all_metered(definition.node_def):
        return definition
    return definition.with_hooks({HOOK})


def _all_metered(node: Any) -> bool:
    """Whether every op in this op or graph reports its own use."""
    ops = list(node.iterate_op_defs())
    return bool(ops) and all(op.tags.get(METERED_TAG) == "body" for op in ops)
