"""What does a person see of the whole history in a browser? The report: what ran, how long, what failed, what to change."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from workflows_pkg.report import forecast_plots, plots, sections
from workflows_pkg.report.document import Section, document, write_document
from workflows_pkg.report.reading import Connection
from workflows_pkg.report.summary import summary
from workflows_pkg.report.tables import instant


def write_report(con: Connection, path: Path, *, now: datetime | None = None) -> Path:
    """Writes the report on the history behind `con` as one HTML file of about 5 MB (plotly's own code) and returns its path.

    The file is replaced in one step, so a browser never loads half a report. `now` is the time shown in it.
    """
    return write_document(report_html(con, now=now or datetime.now(UTC)), path)


def report_html(con: Connection, *, now: datetime) -> str:
    """The report as HTML text."""
    seen = summary(con)
    span = f"{instant(seen.since)} to {instant(seen.until)} UTC" if seen.runs else "no runs yet"
    return document(
        "Workflows report",
        f"{span}; written {instant(now)} UTC",
        f'<dl class="tiles">{sections.tiles(seen)}</dl>',
        [
            Section("ran", "What ran", "", {"p-runs": plots.runs_over_time(con)}, sections.runs(con, seen)),
            Section(
                "time",
                "Where the time goes",
                "",
                {"p-time": plots.where_time_goes(con), "p-one": plots.run_timeline(con)},
                sections.steps(con),
            ),
            Section(
                "forecasts",
                "Durations and forecasts",
                "",
                {
                    "p-durations": forecast_plots.step_durations(con),
                    "p-errors": forecast_plots.forecast_errors(con),
                    "p-actual": forecast_plots.forecast_against_actual(con),
                },
                sections.forecasts(con),
            ),
            Section(
                "failures", "Failures and retries", "", {"p-failures": plots.failures_and_retries(con)}, sections.causes(seen)
            ),
            Section("suggestions", "Suggestions", "", {}, sections.suggestions(seen.suggestions)),
            Section("ledger", "Ledger", "", {"p-ledger": plots.ledger(con)}, sections.ledger(seen.ledger)),
        ],
    )
