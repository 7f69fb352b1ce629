"""What is recorded when the workbench's assets are made: the pages of `report` as Dagster's metadata, with their checks.

Imported by the learning run only: it brings scikit-learn, SciPy and plotly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from workflows_pkg.history.layout import layout
from workflows_pkg.history.store import open_history
from workflows_pkg.prediction.lookup import FILE, job_forecast
from workflows_pkg.report import asset_forecasts, asset_pages, changed_steps
from workflows_pkg.report.asset_pages import Page, Table
from workflows_pkg.report.deadline_check import deadlines_kept
from workflows_pkg.workbench.assets import asset_key
from workflows_pkg.workbench.learning import learn, notice, refresh_suggestions

LOOKED_AT = 100
"""Newest ended runs of the instance that are looked for in the history: more than end between two learning runs."""

LATE_S = 60.0
"""Age of a run's end from which it should have landed: six times the promised ten seconds."""

FIRST_SEEN = "first seen"
"""Metadata of the findings: when each was first found. The next learning run reads it from there."""

Made = Iterator[dg.MaterializeResult[Any]]

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_KINDS = {bool: "bool", int: "int", float: "float"}


def history(instance: dg.DagsterInstance, home: Path) -> Made:
    """What landed, and whether anything is missing."""
    now = datetime.now(UTC)
    with closing(open_history(home)) as con:
        page = asset_pages.history_page(con, now, _bytes(home))
        missing, late_s = _missing(instance, con, now)
    landed = asset_pages.landed(int(page.figures["put aside"]), missing, late_s if late_s > LATE_S else 0.0)
    page = page.with_figures({"ended runs missing": missing})
    yield _result("history", page, [("all_rows_landed", landed)])


def predictors_and_forecasts(home: Path) -> Made:
    """What was trained, and what it says of the next runs."""
    forecasts, card = learn(home)
    yield _result("predictors", asset_forecasts.predictors_page(card))
    with closing(open_history(home)) as con:
        page = asset_forecasts.forecasts_page(forecasts, con)
        kept = deadlines_kept(con, lambda job: job_forecast(home / FILE, job), datetime.now(UTC))
    checks = [("error_within_best_rule", asset_forecasts.error_check(forecasts)), ("deadlines_kept", kept)]
    yield _result("forecasts", page, checks)


def findings(instance: dg.DagsterInstance, home: Path) -> Made:
    """What was noticed, and what of it is new."""
    now = datetime.now(UTC)
    noticed = notice(home)
    found = noticed.findings
    first_seen = asset_pages.first_seen(found, _seen_before(instance), now)
    page = asset_pages.findings_page(found, first_seen)
    yield _result(
        "findings",
        page,
        [
            ("no_new_findings", asset_pages.new_findings(found, first_seen, now)),
            ("steps_as_before", changed_steps.steps_as_before(noticed.worse, noticed.worst)),
        ],
        {FIRST_SEEN: dg.MetadataValue.json(first_seen)},
    )


def suggestions(home: Path) -> Made:
    """What should change."""
    advice = refresh_suggestions(home)
    yield _result("suggestions", asset_pages.suggestions_page(advice.suggestions, advice.unreadable))


def _missing(instance: dg.DagsterInstance, con: Any, now: datetime) -> tuple[int, float]:
    """How many of the newest ended runs are not in the history as ended, and how many seconds ago the first of them ended."""
    ended = instance.get_run_records(
        dg.RunsFilter(statuses=_ENDED), limit=LOOKED_AT, order_by="update_timestamp", ascending=False
    )
    at = {record.dagster_run.run_id: record.end_time for record in ended if record.end_time is not None}
    known = con.execute("select run_id from runs where outcome is not null and list_contains(?, run_id)", [list(at)]).fetchall()
    missing = set(at) - {run_id for (run_id,) in known}
    return len(missing), max((now.timestamp() - at[run_id] for run_id in missing), default=0.0)


def _seen_before(instance: dg.DagsterInstance) -> Mapping[str, str]:
    """When each finding of the last time was first found."""
    event = instance.get_latest_materialization_event(asset_key("findings"))
    made = event.asset_materialization if event is not None else None
    kept = made.metadata.get(FIRST_SEEN) if made is not None else None
    value = kept.value if kept is not None else None
    return {str(name): str(at) for name, at in value.items()} if isinstance(value, Mapping) else {}


def _bytes(home: Path) -> int:
    files = layout(home)
    inside = files.store.rglob("*") if files.store.is_dir() else ()
    return sum(path.stat().st_size for path in (files.published, *inside) if path.is_file())


def _result(
    name: str,
    page: Page,
    checks: Iterable[tuple[str, asset_pages.Verdict]] = (),
    more: Mapping[str, dg.MetadataValue[Any]] | None = None,
) -> dg.MaterializeResult[Any]:
    metadata = _metadata(page)
    metadata |= {key: dg.MetadataValue.json(value) for key, value in page.documents.items()}
    results = [_check(name, check, verdict) for check, verdict in checks]
    return dg.MaterializeResult(asset_key=asset_key(name), metadata=metadata | dict(more or {}), check_results=results)


def _check(asset: str, name: str, verdict: asset_pages.Verdict) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=verdict.passed,
        check_name=name,
        asset_key=asset_key(asset),
        severity=dg.AssetCheckSeverity.WARN,
        description=verdict.sentence,
        metadata=_metadata(verdict),
    )


def _metadata(said: Page | asset_pages.Verdict) -> dict[str, Any]:
    metadata: dict[str, Any] = {key: dg.MetadataValue.md(text) for key, text in said.texts.items()}
    metadata |= {key: _table(table) for key, table in said.tables.items() if table.rows}
    return metadata | {key: _figure(value) for key, value in said.figures.items()}


def _figure(value: float) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(float(f"{value:.6g}"))


def _table(table: Table) -> dg.TableMetadataValue:
    columns = [dg.TableColumn(name, _kind(table.rows, name), description=table.columns.get(name)) for name in table.rows[0]]
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in table.rows], schema=dg.TableSchema(columns))


def _kind(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    return next((_KINDS.get(type(row[name]), "string") for row in rows if row.get(name) is not None), "string")
