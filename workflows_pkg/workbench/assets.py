"""What does Dagster show of the history, and of what is learned from it? Five assets, made together by one job.

    workflows/history -> predictors -> forecasts -> suggestions
    workflows/history -> findings

One step makes them, in one process, whatever executor the code location uses: it is one pass over one history. Nothing is stored
as an asset's value; the tables are in the history, and what stands on the pages is metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from workflows_pkg.errors import SetupError, WorkflowsError
from workflows_pkg.orchestration.own import BY_HAND, LEARNING_JOB, LEARNING_STEP

PREFIX = GROUP = "workflows"

IN_MEMORY = "This instance keeps its event log in memory; there is nothing to read. Set DAGSTER_HOME."

LONGEST_RUN_S = 3600
"""A learning run takes seconds to minutes; after an hour Dagster's run monitoring, where it is on, may end it."""

_NO_VALUES = "workflows_no_values"


@dataclass(frozen=True)
class _Asset:
    """What is said of an asset before it is made. `checks`: descriptions by name."""

    text: str
    after: tuple[str, ...]
    kinds: frozenset[str]
    checks: Mapping[str, str]


_ASSETS: Mapping[str, _Asset] = {
    "history": _Asset(
        "What happened in this instance, in DuckDB: `history.duckdb` in its folder. A sensor lands it every five seconds.",
        (),
        frozenset({"duckdb"}),
        {"all_rows_landed": "No row had to be put aside, and the runs that have ended lately are there."},
    ),
    "predictors": _Asset(
        "What the forecasts were learned from, what serves them, and how wrong they were beside the simple rules.",
        ("history",),
        frozenset({"scikitlearn"}),
        {},
    ),
    "forecasts": _Asset(
        "How long the next run of every job waits, starts and takes, what it costs, how likely it fails, and what memory its steps "
        "should ask for.",
        ("predictors",),
        frozenset({"duckdb"}),
        {
            "error_within_best_rule": "The forecasts are about as good as the simple rule that was best for each job in hindsight.",
            "deadlines_kept": "Every job with a deadline will probably keep it, and has not missed it again and again.",
        },
    ),
    "findings": _Asset(
        "What deserves a look: failures and retries that cost, steps that became slower, schedules that meet.",
        ("history",),
        frozenset({"duckdb"}),
        {
            "no_new_findings": "Nothing was found that was not known a day ago.",
            "steps_as_before": "No step has become slower or fails more often, but by chance.",
        },
    ),
    "suggestions": _Asset(
        "What should change, with the expected effect and its evidence. Nothing is changed before somebody applies it.",
        ("forecasts",),
        frozenset({"duckdb"}),
        {},
    ),
}
NAMES = tuple(_ASSETS)


class _NoValues(dg.IOManager):
    """Stands where the code location's own IO manager would be opened with every learning run, though nothing is kept by it."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Keeps nothing."""

    def load_input(self, context: dg.InputContext) -> object:
        """Refuses: what takes the value of one of these assets should read the history."""
        raise SetupError(
            f"The asset {context.asset_key.to_user_string()} has no value.", fix="Read its tables: open_history(home)."
        )


def learning_definitions(instance_home: Path | None = None) -> dg.Definitions:
    """The assets, their checks and the job that makes them. `instance_home` None: the instance that runs the job."""

    def workflows_learn(context) -> Results:  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
        yield from _learn(context, instance_home)

    # Not @multi_asset: it gives the outputs of checks the code location's IO manager, which would be opened for them.
    out = dg.Out(dg.Nothing, is_required=False, io_manager_key=_NO_VALUES)
    checks = {
        f"{name}_{check}": dg.AssetCheckSpec(check, asset=asset_key(name), description=text)
        for name, asset in _ASSETS.items()
        for check, text in asset.checks.items()
    }
    step = dg.op(name=LEARNING_STEP, out=dict.fromkeys([*_ASSETS, *checks], out))(workflows_learn)
    assets = dg.AssetsDefinition(
        node_def=step,
        keys_by_output_name={name: asset_key(name) for name in _ASSETS},
        check_specs_by_output_name=checks,
        can_subset=True,  # a selection that takes some of these along would otherwise be refused, and with it the whole code location
        # Not a resource of the definitions: those stand in every job of assets, also in the user's.
        resource_defs={_NO_VALUES: dg.IOManagerDefinition.hardcoded_io_manager(_NoValues())},
        specs=[
            dg.AssetSpec(
                asset_key(name),
                deps=[asset_key(other) for other in asset.after],
                description=asset.text,
                group_name=GROUP,
                kinds=set(asset.kinds),
                skippable=True,
            )
            for name, asset in _ASSETS.items()
        ],
    )
    job = dg.define_asset_job(
        LEARNING_JOB,
        selection=dg.AssetSelection.assets(*map(asset_key, _ASSETS)),
        executor_def=dg.in_process_executor,
        description="Learns from the history: forecasts, findings, suggestions. Runs by itself; see the sensor of the same name.",
        tags={
            "dagster/priority": "-10",  # anybody else's run goes first
            "dagster/max_retries": "0",  # the sensor asks again
            "dagster/max_runtime": str(LONGEST_RUN_S),
        },
    )
    return dg.Definitions(assets=[assets], jobs=[job])


def home_of(instance: dg.DagsterInstance) -> Path | None:
    """The folder of a persistent instance; an ephemeral one keeps its events elsewhere, or nowhere."""
    return None if instance.is_ephemeral else Path(instance.root_directory)


def asset_key(name: str) -> dg.AssetKey:
    """The key of one of the workbench's assets."""
    return dg.AssetKey([PREFIX, name])


Results = Iterator["dg.MaterializeResult[Any] | dg.AssetCheckResult"]


def _learn(context: dg.AssetExecutionContext, instance_home: Path | None) -> Results:
    if context.run.job_name not in (LEARNING_JOB, BY_HAND):
        # A job of all assets ("*") takes these along; whoever wrote it did not mean them, and may run it where no history is.
        context.log.info(f"Nothing is learned in the job '{context.run.job_name}'; the job '{LEARNING_JOB}' does that by itself.")
        return
    home = instance_home or home_of(context.instance)
    if home is None:
        raise dg.Failure(IN_MEMORY, allow_retries=False)
    # Imported where the job runs: scikit-learn takes seconds that no load of a code location, and no sensor, should wait for.
    from workflows_pkg.workbench import asset_results

    parts: Mapping[tuple[str, ...], Callable[[], Iterator[dg.MaterializeResult[Any]]]] = {
        ("history",): lambda: asset_results.history(context.instance, home),
        ("predictors", "forecasts"): lambda: asset_results.predictors_and_forecasts(home),
        ("findings",): lambda: asset_results.findings(context.instance, home),
        ("suggestions",): lambda: asset_results.suggestions(home),
    }
    failed: list[str] = []
    for names, made in parts.items():
        name = " and ".join(names)
        try:
            if _asked_for(context) & set(map(asset_key, names)):
                yield from _selected(context, made())
        except WorkflowsError as error:
            failed.append(f"{name}: {error}")
            context.log.error(failed[-1])  # noqa: TRY400  a sentence for a person; its trace says nothing more
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
            context.log.error(failed[-1], exc_info=True)
    if failed:
        raise dg.Failure("Not made: " + "; ".join(failed), allow_retries=False)


def _asked_for(context: dg.AssetExecutionContext) -> set[dg.AssetKey]:
    """The assets that this run makes or checks: all, but where somebody picked some of them."""
    return {*context.selected_asset_keys, *(check.asset_key for check in context.selected_asset_check_keys)}


def _selected(context: dg.AssetExecutionContext, results: Iterator[dg.MaterializeResult[Any]]) -> Results:
    """What of `results` this run may say: Dagster refuses any other."""
    for result in results:
        names = {check.name for check in context.selected_asset_check_keys if check.asset_key == result.asset_key}
        checks = [check for check in result.check_results if check.check_name in names]
        if result.asset_key in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=result.asset_key, metadata=result.metadata, check_results=checks)
        else:
            yield from checks
