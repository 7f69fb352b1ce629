"""What does the history say? Landing, learning, forecasts beside simple rules, suggestions, and what became of the one tried."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pandas as pd

from assets.tour.console import Console
from workflows_pkg.errors import WorkflowsError
from workflows_pkg.history.records import LedgerEntry, Suggestion
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.orchestration.events import SyncResult, sync_events
from workflows_pkg.release.apply import undo
from workflows_pkg.release.trial import Verdict
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.report.comparison import comparison_table, rule_comparison
from workflows_pkg.report.summary import ledger_table, render_summary, summary
from workflows_pkg.report.tables import Column, quantity, share, text_table, words
from workflows_pkg.workbench.assets import learning_definitions
from workflows_pkg.workbench.learning import record_versions, refresh_suggestions
from workflows_pkg.workbench.news import LEARNING_JOB

FORECASTS_SQL = """
    select job_name, quantity, p05, p50, p95, sample_count, predictor, error_share, best_rule, best_rule_error_share
    from forecasts where step = '' and as_of = (select max(as_of) from forecasts)
    order by job_name, list_position(['queue_time_s', 'start_time_s', 'run_time_s', 'cost_usd'], quantity)
"""


def land(home: Path, console: Console) -> SyncResult:
    """Lands what is new in the instance in the history beside it."""
    with console.progress("runs landed", 0) as progress:
        return sync_events(home, home, progress=lambda done, total: progress.at(done, total=total))


def learn_and_advise(instance: dg.DagsterInstance, home: Path, console: Console) -> list[Suggestion]:
    """Runs the job that trains, forecasts and advises, which fills the pages of its assets, and returns the suggestions, best first."""
    job = learning_definitions(home).resolve_job_def(LEARNING_JOB)
    with console.quiet():
        result = console.undisturbed(lambda: job.execute_in_process(instance=instance, raise_on_error=False))
    if not result.success:
        raise WorkflowsError(f"The learning run {result.run_id} failed.", fix=f"Its words are in {console.log}.")
    return refresh_suggestions(home).suggestions


def shown_summary(home: Path, console: Console) -> str:
    """The history in one screen."""
    with open_history(home) as con:
        return render_summary(summary(con), width=console.width, colour=console.colour)


def shown_forecasts(home: Path, console: Console) -> str:
    """Forecasts of the next run of every workflow: queue, start and run time apart, and cost, each with the best simple rule."""
    with open_history(home) as con:
        rows = con.execute(FORECASTS_SQL).df()
    columns = [
        Column("next run of"),
        Column("quantity"),
        Column("expected", figures=True),
        Column("9 in 10 between", figures=True),
        Column("from", figures=True),
        Column("error", figures=True),
        Column("best rule in hindsight", whole=True),
    ]
    return text_table(columns, [_line(row) for _, row in rows.iterrows()], width=console.width, indent=2)


def shown_comparison(home: Path, console: Console) -> str:
    """How wrong forecasts and simple rules were on the same attempts, replayed in order."""
    with open_history(home) as con:
        return comparison_table(rule_comparison(con), width=console.width)


def decide(home: Path, suggestion: Suggestion, verdict: Verdict, entry: LedgerEntry) -> str:
    """Keeps the tried version after a gain, goes back after anything else, and writes verdict and ledger into the history."""
    store = VersionStore(home)
    kept = verdict.name == "gain"
    if not kept:
        undo(suggestion.workflow, store)
    with writer(home) as history:
        history.upsert(LedgerEntry, [entry])
        history.upsert(Suggestion, [suggestion.model_copy(update={"status": "kept" if kept else "undone"})])
        record_versions(history, store)
    active = store.active(suggestion.workflow).number
    return f"{suggestion.workflow} runs version {active} from now on" + ("." if kept else ": the tried one is undone.")


def shown_verdict(suggestion: Suggestion, verdict: Verdict, entry: LedgerEntry, console: Console) -> str:
    """Predicted beside realised effect, the verdict with its reason, and the ledger's line."""
    name = suggestion.quantity

    def figure(value: float | None) -> str:
        return quantity(value, name, signed=True)

    predicted = (
        f"{figure(entry.predicted)} per run  (90 % interval {figure(entry.predicted_low)} … {figure(entry.predicted_high)})"
    )
    realised = f"{figure(entry.realised)} per run  (95 % interval {figure(entry.realised_low)} … {figure(entry.realised_high)})"
    return "\n".join(
        [
            f"  compared   {words(name)} of step '{suggestion.step}'; {quantity(verdict.baseline_mean, name)} as it was",
            f"  predicted  {predicted}",
            f"  realised   {realised}",
            f"  pairs      {verdict.pairs} complete; failed runs: {verdict.failures[0]} old, {verdict.failures[1]} new",
            f"  verdict    {verdict.name}: {verdict.reason}",
            f"  test       {verdict.test}",
            "",
            ledger_table([entry], console.width, console.colour),
        ]
    )


def _line(row: pd.Series) -> list[str]:
    name = str(row["quantity"])
    rule = "-" if pd.isna(row["best_rule"]) else f"{words(str(row['best_rule']))} {share(row['best_rule_error_share'])}"
    return [
        str(row["job_name"]),
        words(name),
        quantity(row["p50"], name),
        f"{quantity(row['p05'], name)} … {quantity(row['p95'], name)}",
        f"{row['sample_count']} runs",
        share(row["error_share"]),
        rule,
    ]
