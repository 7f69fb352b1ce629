"""How do plots, tables and texts become one HTML file? It needs no network and trusts no text in it.

Texts from runs (step names, error messages) are escaped, and the page's content security policy lets no script run but the two
that this module wrote, by their hashes. Nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from workflows_pkg.errors import SetupError, bounded
from workflows_pkg.report.html_tables import escaped
from workflows_pkg.report.tables import file_size
from workflows_pkg.report.theme import template

_TITLE_HEIGHT = 48
"""Pixels that a figure's own title takes; on the page the title is a heading outside the picture."""


@dataclass(frozen=True)
class Section:
    """A part of the page: an anchor, its heading, HTML above the plots, plots by their element's id, and HTML below them."""

    key: str
    title: str
    above: str = ""
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    below: str = ""


def document(title: str, note: str, lead: str, parts: Sequence[Section]) -> str:
    """The whole page as HTML text: a heading, a note beside it, `lead` (HTML) above the sections.

    `title` and `note` are plain texts. The page's theme is the system's, and a button changes it.
    """
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
    size = file_size(len(plotly_js) + len(content) + len(body))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>{_own("page.css")}</style>
</head>
<body>
<header><h1>{escaped(title)}</h1><span class="faint">{escaped(note)}</span>
<button id="theme" type="button" hidden>Dark</button><nav aria-label="Sections">{links}</nav></header>
<main>
<noscript><p class="card">The plots need JavaScript, which is switched off; the tables are all here.</p></noscript>
{lead}
{body}
</main>
<footer>Instants are UTC; '-' means unknown. One file of {size}, most of it plotly.js; it loads nothing from anywhere.</footer>
<script type="application/json" id="figures">{content}</script>
<script>{plotly_js}</script>
<script>{page_js}</script>
</body>
</html>
"""


def write_document(text: str, path: Path) -> Path:
    """Writes the page and returns its path. The file is replaced in one step, so a browser never loads half a page.

    Raises SetupError where it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name that a system gave in other bytes than UTF-8 must not keep the page from being written.
        fresh.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        os.replace(fresh, path)
    except OSError as error:
        raise SetupError(
            f"The page cannot be written to {bounded(path, 200)}: {error.strerror}.", fix="Write it somewhere else."
        ) from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
    return path


def _section(part: Section) -> str:
    drawn = "".join(_figure(name, figure) for name, figure in part.figures.items())
    return f'<section id="{part.key}"><h2>{escaped(part.title)}</h2>{part.above}{drawn}{part.below}</section>\n'


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
