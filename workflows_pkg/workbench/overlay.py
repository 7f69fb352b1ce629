"""What does a tuning change in these definitions? Each entry found by its address, or told of with what to do; nothing is copied here.

The rule for retries: an entry for a job fills in, one for a step or an asset replaces. So `job:NAME` gives a policy to the steps that
have none in the code, as Dagster's `op_retry_policy` does, and `job:NAME/step:KEY` and `asset:KEY` win over the code.

Which tuning was in force is the run tag that compiled workflows have for their spec (`.dagster/workflows_digest`, hidden in Dagster's
lists), so that history reads it as `runs.digest` with no more to learn: the digest of the entries that concern this run, so that it
stays the same while only entries for others change. Runs of a job, schedule or sensor get it with their tags; a run of the implicit
asset job ("Materialize", automation conditions), which has no definition to put a tag on, from the first step that is tuned.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from workflows_pkg.errors import Problem, SpecError
from workflows_pkg.orchestration.metering import METERED_TAG
from workflows_pkg.orchestration.retries import retry_policy
from workflows_pkg.orchestration.version_tags import BUDGET_TAG, DEADLINE_TAG, DIGEST_TAG, WORKFLOW_TAG
from workflows_pkg.spec.deadlines import format_deadline
from workflows_pkg.spec.model import Retry
from workflows_pkg.spec.tuning import Address, Entry, Tuning, load_tuning, nearest_address, tuning_digest
from workflows_pkg.workbench.rebuild import JobChange, Tags, nodes, targets

_log = logging.getLogger("workflows")

TUNING, TUNING_PROBLEMS = "workflows/tuning", "workflows/tuning_problems"
"""Metadata of the definitions, with the file's name: digest and addresses of what is laid over; what is not, and what to do."""
IMPLICIT = "__ASSET_JOB"
"""Dagster's job of all assets, which has no definition."""


@dataclass
class Overlay:
    """What is laid over, in the terms of `rebuild.Changes`. `laid`: the entries that are; `problems`: why the others are not."""

    ops: dict[int, dg.RetryPolicy] = field(default_factory=dict)
    graphs: dict[int, dg.RetryPolicy] = field(default_factory=dict)
    requested: dict[str, Callable[[Tags], Tags]] = field(default_factory=dict)
    laid: dict[Address, Entry] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    tuned_ops: set[int] = field(default_factory=set)

    def job(self, name: str, assets: bool) -> JobChange | None:
        """What is laid over a job; None: nothing."""
        own = {address: entry for address, entry in self.laid.items() if address.sort in ("job", "step") and address.name == name}
        of_assets = {address: entry for address, entry in self.laid.items() if address.sort == "asset"} if assets else {}
        if not own and not of_assets:
            return None
        whole = own.get(Address("job", name))
        tags = _limit_tags(whole) if whole else {}
        return JobChange(
            retry=_policy(whole.retry) if whole and whole.retry else None,
            steps={
                address.step: _policy(entry.retry) for address, entry in own.items() if address.sort == "step" and entry.retry
            },
            tags=tags | _digest_tag(own),
            asset_tags=(lambda keys: _digest_tag(own | _about(of_assets, keys))) if of_assets else None,
        )

    def announce(self, context: dg.OpExecutionContext) -> None:
        """Has a run of the implicit asset job say which tuning is in force, where it does not yet."""
        if context.job_name != IMPLICIT or DIGEST_TAG in context.run.tags:
            return
        of_assets = {address: entry for address, entry in self.laid.items() if address.sort == "asset"}
        selected = context.run.asset_selection
        tags = _digest_tag(of_assets if selected is None else _about(of_assets, selected))
        if tags:
            context.instance.add_run_tags(context.run_id, dict(tags))


def laid_over(defs: dg.Definitions, file: Path) -> tuple[Overlay, dict[str, Any]]:
    """What the tuning file changes in `defs`, and metadata that says so; every problem is logged. A broken file changes nothing."""
    try:
        made = overlay(defs, load_tuning(file))
    except SpecError as error:
        made = Overlay(problems=list(error.problems))
    for problem in made.problems:
        _log.warning("%s", problem)
    metadata: dict[str, Any] = {}
    if made.problems:
        metadata[f"{TUNING_PROBLEMS}/{file}"] = dg.MetadataValue.text("\n".join(map(str, made.problems)))
    if made.laid:
        said = {"digest": tuning_digest(made.laid), "entries": [str(address) for address in made.laid]}
        metadata[f"{TUNING}/{file}"] = dg.MetadataValue.json(said)
    return made, metadata


def overlay(defs: dg.Definitions, tuning: Tuning) -> Overlay:
    """What `tuning` changes in `defs`; entries that match nothing or cannot be laid over are problems with what to do."""
    made = Overlay()
    if not tuning.entries:
        return made
    held = _Held(defs)
    for address, entry in tuning.entries.items():
        target = _asset_of_step(held, address) or address
        reason = _refusal(held, made, target, entry)
        if reason is not None:
            made.problems.append(tuning.problem(address, *reason))
            continue
        made.laid[target] = entry
        _lay(held, made, target, entry)
    return made


class _Held:
    """Everything that definitions hold, listed or held by a schedule or sensor, by name."""

    def __init__(self, defs: dg.Definitions) -> None:
        self.schedules = {one.name: one for one in defs.schedules or ()}
        self.sensors = {one.name: one for one in defs.sensors or ()}
        self.jobs: dict[str, list[Any]] = defaultdict(list)
        self.assets: list[dg.AssetsDefinition] = []
        for job in defs.jobs or ():
            self.jobs[job.name].append(job)
        asked = [target for one in (*self.schedules.values(), *self.sensors.values()) for target in targets(one)]
        for target in asked:
            if target.has_job_def:
                self.jobs[target.job_name].append(target.job_def)
        for schedule in self.schedules.values():
            if not isinstance(schedule, dg.ScheduleDefinition):  # one whose cron follows from partitions holds a job of assets
                self.jobs[schedule.job.name].append(schedule.job)
        found = (*(defs.assets or ()), *(defs.asset_checks or ()), *(asset for target in asked for asset in target.assets_defs))
        self.assets = [one for one in {id(one): one for one in found}.values() if isinstance(one, dg.AssetsDefinition)]

    @cached_property
    def made_by(self) -> dict[str, dg.AssetsDefinition]:
        """What makes each asset, by its key with `/`."""
        return {key.to_user_string(): asset for asset in self.assets if asset.is_executable for key in asset.keys}

    @cached_property
    def holders(self) -> dict[int, set[str]]:
        """Who uses each op and graph, by its id."""
        users: dict[int, set[str]] = defaultdict(set)
        for asset in self.assets:
            if asset.is_executable:
                named = ", ".join(sorted(key.to_user_string() for key in asset.keys)) or "a check"
                for node in nodes(asset):
                    users[id(node)].add(f"asset {named}")
        for name, jobs in self.jobs.items():
            for job in jobs:
                if isinstance(job, dg.JobDefinition) and not job.is_asset_job:
                    for node in nodes(job):
                        users[id(node)].add(f"job {name}")
        return users

    def addresses(self) -> Iterator[Address]:
        """Every address there is, steps of jobs included."""
        yield from (Address("schedule", name) for name in self.schedules)
        yield from (Address("sensor", name) for name in self.sensors)
        yield from (Address("asset", key) for key in self.made_by)
        for name in self.jobs:
            yield Address("job", name)
            yield from (Address("step", name, step) for step in self.steps(name))

    def steps(self, job: str) -> list[str]:
        """Step keys of a job, as far as they can be known before Dagster resolves it."""
        found: dict[str, None] = {}
        for one in self.jobs.get(job, ()):
            if isinstance(one, dg.JobDefinition):
                found |= dict.fromkeys(_step_keys(one.graph))
            else:
                found |= dict.fromkeys(step for asset in self._selected(one) for step in _step_keys_of_asset(asset))
        return list(found)

    def _selected(self, job: Any) -> list[dg.AssetsDefinition]:
        executable = [asset for asset in self.assets if asset.is_executable]
        try:
            keys = job.selection.resolve(executable)
        except Exception:  # noqa: BLE001 - a selection may need what only Dagster's own resolution has; then any asset's step will do
            return executable
        return [asset for asset in executable if asset.keys & keys or any(check.asset_key in keys for check in asset.check_keys)]


def _step_keys(graph: dg.GraphDefinition) -> Iterator[str]:
    for name, node in graph.node_dict.items():
        if isinstance(node.definition, dg.GraphDefinition):
            yield from (f"{name}.{inner}" for inner in _step_keys(node.definition))
        else:
            yield name


def _step_keys_of_asset(asset: dg.AssetsDefinition) -> Iterator[str]:
    node = asset.node_def
    if isinstance(node, dg.GraphDefinition):
        yield from (f"{node.name}.{inner}" for inner in _step_keys(node))
    else:
        yield node.name


def _asset_of_step(held: _Held, address: Address) -> Address | None:
    """The implicit asset job has no steps of its own: an entry for one is an entry for what the step makes."""
    if address.sort != "step" or address.name != IMPLICIT:
        return None
    for asset in held.made_by.values():
        if address.step in _step_keys_of_asset(asset):
            return Address("asset", min(key.to_user_string() for key in asset.keys))
    return None


def _refusal(held: _Held, made: Overlay, address: Address, entry: Entry) -> tuple[str, str] | None:
    """Why an entry cannot be laid over, and what to do; None: it can."""
    if address in made.laid:
        return "another entry says the same in other words.", "Keep one of them."
    if address.sort == "asset":
        return _asset_refusal(held, made, address)
    if address.sort in ("schedule", "sensor"):
        known = held.schedules if address.sort == "schedule" else held.sensors
        return None if address.name in known else _nothing(held, address)
    if address.name == IMPLICIT:
        return (
            "the implicit asset job has no definition to lay this over.",
            "Put a retry at asset:KEY; give a timeout to a job of yours.",
        )
    if address.name not in held.jobs:
        return _nothing(held, address)
    if any(_has_spec(job) for job in held.jobs[address.name]):
        return _SPEC
    if address.sort == "step" and address.step not in held.steps(address.name):
        return _nothing(held, address)
    if address.sort == "job" and entry.retry is not None and _all_have_policies(held.jobs[address.name]):
        fix = f"Name the step: job:{address.name}/step:KEY."
        return "every step of this job has a retry policy in the code, and an entry for a job only fills in.", fix
    return None


_SPEC = ("this is a workflow with a spec.", "Change its file, or apply the suggestion to it (workflows apply).")


def _asset_refusal(held: _Held, made: Overlay, address: Address) -> tuple[str, str] | None:
    asset = held.made_by.get(address.name)
    if asset is None:
        return _nothing(held, address)
    inside = nodes(asset)
    if all(node.tags.get(METERED_TAG) == "body" for node in inside if isinstance(node, dg.OpDefinition)):
        return _SPEC
    top = asset.node_def
    if id(top) in made.ops or id(top) in made.graphs:
        keys = ", ".join(sorted(key.to_user_string() for key in asset.keys))
        return f"one step makes {keys}, and another entry is about it already.", "Keep one of them."
    # A graph's own ops get the policy where the graph uses them, so only graphs, and an op that is the whole asset, must be the asset's.
    exclusive = [node for node in inside if node is top or isinstance(node, dg.GraphDefinition)]
    others = sorted(
        {user for node in exclusive for user in held.holders[id(node)]} - {min(held.holders[id(top)])} - _own(held, asset)
    )
    if others:
        return (
            f"its code is also used by {others[0]}, and Dagster keeps one definition for both.",
            "Give the asset an op of its own.",
        )
    return None


def _own(held: _Held, asset: dg.AssetsDefinition) -> set[str]:
    """How `holders` calls this asset, and copies of it that a schedule or sensor holds."""
    return {
        f"asset {', '.join(sorted(key.to_user_string() for key in one.keys))}" for one in held.assets if one.keys & asset.keys
    }


def _nothing(held: _Held, address: Address) -> tuple[str, str]:
    return "nothing here has this address.", nearest_address(address, held.addresses())


def _has_spec(job: Any) -> bool:
    return WORKFLOW_TAG in (job.tags or {})


def _all_have_policies(jobs: Iterable[Any]) -> bool:
    """Whether no step would take a policy from the job; of jobs of assets it is not known before Dagster resolves them."""
    graphs = [job.graph for job in jobs if isinstance(job, dg.JobDefinition)]
    return bool(graphs) and all(_covered(graph) for graph in graphs)


def _covered(graph: dg.GraphDefinition) -> bool:
    return all(node.retry_policy is not None or _has_policies(node.definition) for node in graph.node_dict.values())


def _has_policies(definition: Any) -> bool:
    return _covered(definition) if isinstance(definition, dg.GraphDefinition) else definition.retry_policy is not None


def _lay(held: _Held, made: Overlay, address: Address, entry: Entry) -> None:
    """Jobs and their steps are read from `laid`; the others are found by what they hold."""
    if address.sort == "asset" and entry.retry is not None:
        asset = held.made_by[address.name]
        node = asset.node_def
        (made.graphs if isinstance(node, dg.GraphDefinition) else made.ops)[id(node)] = _policy(entry.retry)
        made.tuned_ops |= {id(op) for op in nodes(asset)}
    elif address.sort in ("schedule", "sensor"):
        own = {address: entry}
        limits = _limit_tags(entry)
        made.requested[str(address)] = lambda job_tags: limits | _joined_digest(own, job_tags)


def _policy(retry: Retry) -> dg.RetryPolicy:
    """Dagster's policy; one without retries where one attempt is all, so that it also takes away what the code allows."""
    return retry_policy(retry) or dg.RetryPolicy(max_retries=0)


def _limit_tags(entry: Entry) -> dict[str, str]:
    """What an entry for a job, schedule or sensor says of the time and cost of a run."""
    tags: dict[str, str] = {}
    if entry.timeout is not None:
        tags[dg.MAX_RUNTIME_SECONDS_TAG] = str(math.ceil(entry.timeout.total_seconds()))
    if entry.budget is not None:
        tags[BUDGET_TAG] = repr(entry.budget.usd_per_run)
    if entry.deadline is not None:
        tags[DEADLINE_TAG] = format_deadline(entry.deadline)
    return tags


def _digest_tag(entries: Mapping[Address, Entry]) -> dict[str, str]:
    return {DIGEST_TAG: tuning_digest(entries)} if entries else {}


def _joined_digest(own: Mapping[Address, Entry], job_tags: Tags) -> dict[str, str]:
    """Of the schedule's or sensor's entry together with what the job has anyway."""
    digest = tuning_digest(own)
    return {DIGEST_TAG: f"{digest}-{job_tags[DIGEST_TAG]}" if DIGEST_TAG in job_tags else digest}


def _about(entries: Mapping[Address, Entry], keys: Iterable[dg.AssetKey]) -> dict[Address, Entry]:
    made = {key.to_user_string() for key in keys}
    return {address: entry for address, entry in entries.items() if address.name in made}
