"""What does a person see of the whole history in a browser? One file that needs no network and trusts no text in it.

Texts from runs (step names, error messages) are escaped, and the page's content security policy lets no script run but the two
that this module wrote, by their hashes. Nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from workflows_pkg.report import forecast_plots, plots, sections
from workflows_pkg.report.reading import Connection
from workflows_pkg.report.sections import escaped
from workflows_pkg.report.summary import Summary, summary
from workflows_pkg.report.tables import file_size, instant
from workflows_pkg.report.theme import template

_TITLE_HEIGHT = 48
"""Pixels that a figure's own title takes; on the page the title is a heading outside the picture."""


@dataclass(frozen=True)
class _Section:
    """A part of the page: an anchor, its heading, plots by their element's id, and HTML below them."""

    key: str
    title: str
    figures: dict[str, go.Figure]
    below: str


def write_report(con: Connection, path: Path, *, now: datetime | None = None) -> Path:
    """Writes the report on the history behind `con` as one HTML file of about 5 MB (plotly's own code) and returns its path.

    The file is replaced in one step, so a browser never loads half a report. `now` is the time shown in it.
    """
    text = report_html(con, now=now or datetime.now(UTC))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8", newline="\n")
    os.replace(fresh, path)
    return path


def report_html(con: Connection, *, now: datetime) -> str:
    """The report as HTML text."""
    seen = summary(con)
    return _page(
        seen,
        [
            _Section("ran", "What ran", {"p-runs": plots.runs_over_time(con)}, sections.runs(con, seen)),
            _Section(
                "time",
                "Where the time goes",
                {"p-time": plots.where_time_goes(con), "p-one": plots.run_timeline(con)},
                sections.steps(con),
            ),
            _Section(
                "forecasts",
                "Durations and forecasts",
                {
                    "p-durations": forecast_plots.step_durations(con),
                    "p-errors": forecast_plots.forecast_errors(con),
                    "p-actual": forecast_plots.forecast_against_actual(con),
                },
                sections.forecasts(con),
            ),
            _Section("failures", "Failures and retries", {"p-failures": plots.failures_and_retries(con)}, sections.causes(seen)),
            _Section("suggestions", "Suggestions", {}, sections.suggestions(seen.suggestions)),
            _Section("ledger", "Ledger", {"p-ledger": plots.ledger(con)}, sections.ledger(seen.ledger)),
        ],
        now,
    )


def _page(seen: Summary, parts: list[_Section], now: datetime) -> str:
    plotly_js, page_js = get_plotlyjs(), _own("page.js")
    body = "".join(_section(part) for part in parts)
    content = _json(
        {
            "figures": {name: _data(drawn) for part in parts for name, drawn in part.figures.items()},
            "templates": {mode: template(mode).to_plotly_json() for mode in ("light", "dark")},
        }
    )
    # Styles are inline because plotly sets them on its elements; scripts are allowed by hash alone, so an injected one is dead.
    policy = (
        f"default-src 'none'; script-src {_hash(plotly_js)} {_hash(page_js)}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{part.key}">{escaped(part.title)}</a>' for part in parts)
    span = f"{instant(seen.since)} to {instant(seen.until)} UTC" if seen.runs else "no runs yet"
    size = file_size(len(plotly_js) + len(content) + len(body))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Workflows report</title>
<style>{_own("page.css")}</style>
</head>
<body>
<header><h1>Workflows report</h1><span class="faint">{span}; written {instant(now)} UTC</span>
<button id="theme" type="button" hidden>Dark</button><nav aria-label="Sections">{links}</nav></header>
<main>
<noscript><p class="card">The plots need JavaScript, which is switched off; the tables are all here.</p></noscript>
<dl class="tiles">{sections.tiles(seen)}</dl>
{body}
</main>
<footer>Instants are UTC; '-' means unknown. One file of {size}, most of it plotly.js; it loads nothing from anywhere.</footer>
<script type="application/json" id="figures">{content}</script>
<script>{plotly_js}</script>
<script>{page_js}</script>
</body>
</html>
"""


def _section(part: _Section) -> str:
    drawn = "".join(_figure(name, figure) for name, figure in part.figures.items())
    return f'<section id="{part.key}"><h2>{escaped(part.title)}</h2>{drawn}{part.below}</section>\n'


def _figure(name: str, drawn: go.Figure) -> str:
    # Titles of figures are escaped already where they carry names, since plotly reads HTML in them too.
    layout: Any = drawn.layout  # plotly makes these attributes at run time
    title, subtitle = layout.title.text, layout.title.subtitle.text or ""
    height = layout.height - _TITLE_HEIGHT
    return (
        f"<figure><h3>{title}</h3><figcaption>{subtitle}</figcaption>"
        f'<div class="plot" id="{name}" style="height:{height}px" role="img" aria-label="{title}"></div></figure>'
    )


def _data(drawn: go.Figure) -> dict[str, Any]:
    """A figure's data and layout without its title, a heading of the page, and its template, which the page's theme chooses."""
    value: dict[str, Any] = json.loads(drawn.to_json() or "{}")
    layout = value["layout"]
    del layout["template"], layout["title"]
    layout["height"] -= _TITLE_HEIGHT
    layout["margin"]["t"] -= _TITLE_HEIGHT
    return {"data": value["data"], "layout": layout}


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _own(name: str) -> str:
    return files("workflows_pkg.report").joinpath(name).read_text(encoding="utf-8")
