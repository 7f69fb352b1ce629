"""How are somebody else's definitions copied with one part exchanged? One object in, one copy out; what is not concerned stays itself.

Dagster keeps copies: a schedule or sensor holds the job it was made with, one made from assets holds the assets, the same op is used
in several graphs, and a location in which two ops or graphs have one name is refused. So every definition has one copy for all who
hold it, made from the inside out, and it is the definition itself where nothing inside it changed.

Copies are shallow, with one attribute exchanged, so that what this module does not know about is kept. This is the only module
that names Dagster's private attributes for it; `PRIVATE` lists them, and a test fails when one moves.
"""

# pyright: reportPrivateUsage=false
# The attributes of PRIVATE have no public way to be exchanged; this is the one module that does it.
from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, cast

import dagster as dg
from dagster._core.definitions.assets.definition.cacheable_assets_definition import (
    CacheableAssetsDefinition,
    WrappedCacheableAssetsDefinition,
)
from dagster._core.definitions.decorators.op_decorator import DecoratedOpFunction
from dagster._core.definitions.node_container import create_execution_structure
from dagster._core.definitions.partitions.partitioned_schedule import UnresolvedPartitionedAssetScheduleDefinition
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._record import is_record, replace

_log = logging.getLogger("workflows")

PRIVATE: Mapping[type, tuple[str, ...]] = {
    dg.OpDefinition: ("_compute_fn", "_retry_policy"),
    dg.GraphDefinition: ("_node_defs", "_dependencies", "_dependency_structure", "_node_dict", "_nodes_in_topological_order"),
    dg.AssetsDefinition: ("_computation",),
    dg.SourceAsset: ("_node_def",),
    dg.ScheduleDefinition: ("_target",),
    dg.SensorDefinition: ("_targets",),
    dg.JobDefinition: ("_op_retry_policy", "_run_tags"),
    dg.AutomationConditionSensorDefinition: ("_run_tags",),
}
"""Attributes of instances that copies are made by."""
PRIVATE_METHODS: Mapping[type, tuple[str, ...]] = {
    dg.GraphDefinition: ("_get_nodes_in_topological_order",),
    dg.JobDefinition: ("_copy", "_get_job_def_for_asset_selection", "as_ephemeral_job"),
    DecoratedOpFunction: ("_replace",),
}

_LEFT_OUT, _EXCHANGED = "_workflows_left_out", "_workflows_executor_exchanged"
"""Attributes of a changed job's class: which assets it leaves out already, and whether its executor is exchanged."""

Exchange = Callable[[dg.ExecutorDefinition], dg.ExecutorDefinition]

Body = Callable[..., Any]
Tags = Mapping[str, str]


@dataclass(frozen=True)
class JobChange:
    """What is laid over one job. `steps`: policies by step key; `retry`: for steps without one of their own; `tags`: of its runs.

    asset_tags: for jobs of assets, the tags that follow from the keys they make; None: none.
    """

    retry: dg.RetryPolicy | None = None
    steps: Mapping[str, dg.RetryPolicy] = field(default_factory=dict)
    tags: Tags = field(default_factory=dict)
    asset_tags: Callable[[Iterable[dg.AssetKey]], Tags] | None = None


@dataclass(frozen=True)
class Changes:
    """What is exchanged. Whatever is left out stays as it is.

    body: the function of an op instead of its own; the same one: no change.
    ops, graphs: policies by the `id` of an op, and of a graph all of whose ops get it in this graph.
    job: what is laid over the job of a name, None: nothing; the second argument says whether it is a job of assets.
    requested: tags of the runs that a schedule or sensor asks for, by the name it has, with those of the job it asks for.
    left_out: assets of other definitions that a job of assets does not take along, unless it selects nothing else.
    executor: what a job runs with instead of what it would run with, which may only be known once the definitions are merged.
    """

    body: Callable[[dg.OpDefinition, Body], Body] = lambda _, body: body
    ops: Mapping[int, dg.RetryPolicy] = field(default_factory=dict)
    graphs: Mapping[int, dg.RetryPolicy] = field(default_factory=dict)
    job: Callable[[str, bool], JobChange | None] = lambda _, assets: None
    requested: Mapping[str, Callable[[Tags], Tags]] = field(default_factory=dict)
    left_out: AbstractSet[dg.AssetKey] = frozenset()
    executor: Exchange | None = None


@dataclass(frozen=True)
class Rebuilt:
    """`kept`: what could not be copied and so is as it was, each in a sentence."""

    defs: dg.Definitions
    kept: tuple[str, ...]


def rebuilt(defs: dg.Definitions, changes: Changes) -> Rebuilt:
    """`defs` with `changes`; never raises for what it cannot copy: that, and all ops and graphs in it, stays as it was everywhere."""
    frozen: dict[int, Any] = {}
    kept: list[str] = []
    while True:
        copies = _Copies(changes, frozen)
        made = copies.definitions(defs)
        if copies.failed is None:
            return Rebuilt(made, tuple(kept))
        definition, error = copies.failed
        kept.append(f"{_called(definition)} stays as it is: {type(error).__name__}: {error}")
        _log.debug("A definition could not be copied.", exc_info=error)
        # Names are unique in a location: what this definition holds must then be the same object wherever else it is held.
        frozen.update({id(held): held for held in (definition, *nodes(definition))})


def nodes(definition: Any) -> list[Any]:
    """Every op and graph in an op, graph, asset, job, schedule or sensor, itself included, outermost first."""
    if isinstance(definition, dg.OpDefinition):
        return [definition]
    if isinstance(definition, dg.GraphDefinition):
        return [definition, *(node for inner in definition.node_defs for node in nodes(inner))]
    if isinstance(definition, dg.AssetsDefinition):
        return nodes(definition.node_def) if definition.is_executable else []
    if isinstance(definition, dg.JobDefinition):
        return nodes(definition.graph)
    return [
        node for target in targets(definition) for held in (target.resolvable_to_job, *target.assets_defs) for node in nodes(held)
    ]


def targets(definition: Any) -> Sequence[Any]:
    """What a schedule or sensor asks to run."""
    if isinstance(definition, dg.ScheduleDefinition):
        return [definition.target]
    return definition.targets if isinstance(definition, dg.SensorDefinition) else []


class _Copies:
    """The copies made so far, by the object they were made from, which they keep alive so that its id stays its own."""

    def __init__(self, changes: Changes, frozen: Mapping[int, Any]) -> None:
        self._changes = changes
        self._frozen = frozen
        self._made: dict[tuple[int, int], tuple[Any, Any]] = {}
        self.failed: tuple[Any, Exception] | None = None

    def definitions(self, defs: dg.Definitions) -> dg.Definitions:
        """`defs` with copies; where `failed` is set meanwhile, to be thrown away."""
        return dg.Definitions(
            assets=self._all(defs.assets),
            asset_checks=self._all(defs.asset_checks),
            jobs=self._all(defs.jobs),
            schedules=self._all(defs.schedules),
            sensors=self._all(defs.sensors),
            resources=defs.resources,
            executor=defs.executor,
            loggers=defs.loggers,
            metadata=defs.metadata,
            component_tree=defs.component_tree,
        )

    def _all(self, definitions: Iterable[Any] | None) -> list[Any] | None:
        if definitions is None:
            return None
        made = []
        for definition in definitions:
            try:
                made.append(self.of(definition))
            except Exception as error:  # noqa: BLE001 - somebody else's class may refuse a copy in any way; it is told of and kept
                self.failed = self.failed or (definition, error)
                made.append(definition)
        return made

    def of(self, definition: Any, policy: dg.RetryPolicy | None = None) -> Any:
        """The one copy of `definition`; with `policy`, the one in which every op of this graph has it."""
        key = (id(definition), id(policy) if policy else 0)
        if id(definition) in self._frozen:
            return definition
        if key not in self._made:
            self._made[key] = (definition, self._copy(definition, policy))
        return self._made[key][1]

    def _copy(self, definition: Any, policy: dg.RetryPolicy | None) -> Any:
        match definition:
            case dg.OpDefinition():
                return self._op(definition)
            case dg.GraphDefinition():
                return self._graph(definition, policy or self._changes.graphs.get(id(definition)))
            case dg.AssetsDefinition():
                return self._asset(definition)
            case dg.SourceAsset():
                return self._source(definition)
            case CacheableAssetsDefinition():
                return _Cacheable(definition, self)
            case dg.JobDefinition():
                return self._job(definition)
            case UnresolvedAssetJobDefinition():
                change = self._changes.job(definition.name, True)
                left_out = self._changes.left_out - getattr(definition, _LEFT_OUT, frozenset())
                executor = None if getattr(definition, _EXCHANGED, False) else self._changes.executor
                if change is None and not left_out and executor is None:
                    return definition
                return _as_changed_asset_job(definition, change, left_out, executor)
            case dg.ScheduleDefinition() | dg.SensorDefinition():
                return self._automation(definition)
            case UnresolvedPartitionedAssetScheduleDefinition():
                return self._partitioned_schedule(definition)
            case _:
                return definition  # specs do not run

    def _op(self, definition: dg.OpDefinition) -> dg.OpDefinition:
        body = definition.compute_fn
        function = body.decorated_fn if isinstance(body, DecoratedOpFunction) else body
        new = self._changes.body(definition, function)
        policy = self._changes.ops.get(id(definition))
        if new is function and policy is None:
            return definition
        made = copy.copy(definition)
        made._compute_fn = body._replace(decorated_fn=new) if isinstance(body, DecoratedOpFunction) else new
        made._retry_policy = policy or definition.retry_policy
        return made

    def _graph(self, definition: dg.GraphDefinition, policy: dg.RetryPolicy | None) -> dg.GraphDefinition:
        def inner(node: Any) -> Any:
            return self.of(node, policy if isinstance(node, dg.GraphDefinition) else None)

        node_defs = [inner(node) for node in definition.node_defs]
        if policy is None and all(new is old for new, old in zip(node_defs, definition.node_defs, strict=True)):
            return definition
        made = copy.copy(definition)
        made._node_defs = node_defs
        made._dependencies = definition.dependencies if policy is None else _with_policy(definition, policy)
        made._dependency_structure, made._node_dict = create_execution_structure(
            node_defs, made._dependencies, graph_definition=made
        )
        made._nodes_in_topological_order = made._get_nodes_in_topological_order()
        return made

    def _asset(self, definition: dg.AssetsDefinition) -> dg.AssetsDefinition:
        if not definition.is_executable:
            return definition
        node = self.of(definition.node_def)
        if node is definition.node_def:
            return definition
        made = copy.copy(definition)
        made._computation = replace(cast("Any", definition._computation), node_def=node)
        return made

    def _source(self, definition: dg.SourceAsset) -> dg.SourceAsset:
        if definition.observe_fn is None:
            return definition
        new = self._changes.body(definition.op, definition.observe_fn)
        if new is definition.observe_fn:
            return definition
        made = copy.copy(definition)
        made.observe_fn = new
        made._node_def = None  # made anew around the function when it is asked for
        return made

    def _job(self, definition: dg.JobDefinition) -> dg.JobDefinition:
        graph = self.of(definition.graph)
        made = definition if graph is definition.graph else definition._copy(graph_def=graph)
        executor = None if getattr(definition, _EXCHANGED, False) else self._changes.executor
        return _changed_job(made, self._changes.job(definition.name, definition.is_asset_job), executor)

    def _automation(self, definition: Any) -> Any:
        old = targets(definition)
        new = [
            target._replace(resolvable_to_job=self.of(target.resolvable_to_job), assets_defs=self._all(target.assets_defs))
            for target in old
        ]
        tags = self._changes.requested.get(
            f"{'schedule' if isinstance(definition, dg.ScheduleDefinition) else 'sensor'}:{definition.name}"
        )
        same = all(
            before.resolvable_to_job is after.resolvable_to_job
            and all(held is copied for held, copied in zip(before.assets_defs, after.assets_defs, strict=True))
            for before, after in zip(old, new, strict=True)
        )
        if same and tags is None:
            return definition
        made = copy.copy(definition)
        if isinstance(made, dg.ScheduleDefinition):
            made._target = new[0]
        else:
            made._targets = new
        return made if tags is None else _tuned_automation(made, tags)

    def _partitioned_schedule(self, definition: UnresolvedPartitionedAssetScheduleDefinition) -> Any:
        job = self.of(definition.job)
        tags = self._changes.requested.get(f"schedule:{definition.name}")
        if job is definition.job and tags is None:
            return definition
        made = replace(definition, job=job)
        if tags is not None:
            made.__class__ = _tuned_partitioned_schedule(tags)
        return made


class _Cacheable(WrappedCacheableAssetsDefinition):
    """Assets that are only known once a service was asked: copied when they are built, under the name their cache has."""

    def __init__(self, wrapped: CacheableAssetsDefinition, copies: _Copies) -> None:
        super().__init__(wrapped.unique_id, wrapped)
        self._copies = copies

    def transformed_assets_def(self, assets_def: dg.AssetsDefinition) -> dg.AssetsDefinition:
        return self._copies.of(assets_def)


def _with_policy(graph: dg.GraphDefinition, policy: dg.RetryPolicy) -> dict[Any, Any]:
    """The graph's dependencies in which every op is invoked with `policy`; inner graphs have copies of their own."""
    by_name = {invocation.alias or invocation.name: (invocation, needs) for invocation, needs in graph.dependencies.items()}
    made: dict[Any, Any] = {}
    for name, node in graph.node_dict.items():
        invocation, needs = by_name.get(name, (dg.NodeInvocation(node.definition.name), {}))
        is_op = isinstance(node.definition, dg.OpDefinition)
        made[invocation._replace(retry_policy=policy) if is_op else invocation] = needs
    return made


def _changed_job(job: dg.JobDefinition, change: JobChange | None, executor: Exchange | None) -> dg.JobDefinition:
    """A job that keeps what was changed in it through the copies Dagster makes: with resources, of some ops, of some assets."""
    change = change or JobChange()
    tags = dict(change.tags)
    if change.asset_tags is not None:
        tags |= change.asset_tags(job.asset_layer.executable_asset_keys)
    base = type(job)

    class ChangedJob(base):
        @property
        def executor_def(self) -> dg.ExecutorDefinition:
            return super().executor_def if executor is None else executor(super().executor_def)

        def get_retry_policy_for_handle(self, handle: Any) -> dg.RetryPolicy | None:
            return change.steps.get(str(handle)) or super().get_retry_policy_for_handle(handle)

        def _copy(self, **kwargs: Any) -> dg.JobDefinition:
            return _as_class(super()._copy(**kwargs), type(self))

        def as_ephemeral_job(self, *args: Any, **kwargs: Any) -> dg.JobDefinition:
            return self._changed_alike(super().as_ephemeral_job(*args, **kwargs))

        def _get_job_def_for_asset_selection(self, selection_data: Any) -> dg.JobDefinition:
            return self._changed_alike(super()._get_job_def_for_asset_selection(selection_data))

        def _changed_alike(self, made: dg.JobDefinition) -> dg.JobDefinition:
            made._op_retry_policy = self._op_retry_policy  # which Dagster leaves behind for a part of the assets
            return _as_class(made, type(self))

    given: dict[str, Any] = {}
    if change.retry is not None:
        given["op_retry_policy"] = change.retry
    if tags:
        given |= {"tags": {**job.tags, **tags}} if job._run_tags is None else {"run_tags": {**job._run_tags, **tags}}
    if not given and not change.steps and executor is None:
        return job
    setattr(ChangedJob, _EXCHANGED, executor is not None or getattr(job, _EXCHANGED, False))
    return _as_class(job._copy(**given), ChangedJob)


def _as_changed_asset_job(
    job: UnresolvedAssetJobDefinition, change: JobChange | None, left_out: AbstractSet[dg.AssetKey], executor: Exchange | None
) -> UnresolvedAssetJobDefinition:
    """A job of assets that is changed once Dagster knows its assets. A class of its own: Dagster copies the fields, never more."""
    base = type(job)

    class ChangedAssetJob(base):
        def resolve(self, asset_graph: Any, *args: Any, **kwargs: Any) -> dg.JobDefinition:
            theirs = self
            present = left_out & asset_graph.get_all_asset_keys()
            # Asked only where one of them is there, so that what is wrong with a selection is told by Dagster as it always is.
            if present and not present >= (selected := self.selection.resolve(asset_graph)) and present & selected:
                theirs = replace(self, selection=self.selection - dg.AssetSelection.assets(*present))
            return _changed_job(base.resolve(theirs, asset_graph, *args, **kwargs), change, executor)

    setattr(ChangedAssetJob, _EXCHANGED, executor is not None or getattr(job, _EXCHANGED, False))
    setattr(ChangedAssetJob, _LEFT_OUT, left_out | getattr(job, _LEFT_OUT, frozenset()))
    return _as_class(copy.copy(job), ChangedAssetJob)


def _tuned_automation(definition: Any, tags: Callable[[Tags], Tags]) -> Any:
    """A schedule or sensor whose runs have `tags` besides, whatever its function says."""
    base: Any = type(definition)

    class Tuned(base):  # pyright: ignore[reportUntypedBaseClass] - the class of somebody else's sensor
        def evaluate_tick(self, context: Any) -> Any:
            data = super().evaluate_tick(context)
            asked = [
                request.with_replaced_attrs(
                    tags={**request.tags, **tags(_job_tags(context, request.job_name or self._only_job()))}
                )
                for request in data.run_requests or []
            ]
            return replace(data, run_requests=asked) if is_record(data) else data._replace(run_requests=asked)

        def with_attributes(self, **kwargs: Any) -> Any:
            return _as_class(super().with_attributes(**kwargs), type(self))

        def _only_job(self) -> str | None:
            asked = targets(self)
            return asked[0].job_name if len(asked) == 1 else None

    if isinstance(definition, dg.AutomationConditionSensorDefinition):
        definition._run_tags = {**definition.run_tags, **tags({})}  # the daemon asks for its runs
        return definition
    return _as_class(definition, Tuned)


def _tuned_partitioned_schedule(tags: Callable[[Tags], Tags]) -> type[UnresolvedPartitionedAssetScheduleDefinition]:
    class TunedPartitionedSchedule(UnresolvedPartitionedAssetScheduleDefinition):
        def resolve(self, resolved_job: dg.JobDefinition) -> Any:
            return _tuned_automation(super().resolve(resolved_job), tags)

    return TunedPartitionedSchedule


def _job_tags(context: Any, name: str | None) -> Tags:
    """Tags that runs of the job have anyway; none where the tick does not know the location."""
    repository = context.repository_def
    return repository.get_job(name).run_tags if repository is not None and name and repository.has_job(name) else {}


def _as_class(made: Any, kind: type) -> Any:
    made.__class__ = kind
    return made


def _called(definition: Any) -> str:
    name = getattr(definition, "name", None) or ", ".join(sorted(key.to_user_string() for key in getattr(definition, "keys", ())))
    return f"{type(definition).__name__} '{name}'" if name else type(definition).__name__
