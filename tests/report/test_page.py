"""The page works without a network, shows both themes, and no text from a run can act in it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from workflows_pkg.report.page import write_report


class Page(HTMLParser):
    """What a browser would do with the page: scripts by type, attributes that run code, addresses that are loaded."""

    def __init__(self, text):
        super().__init__(convert_charrefs=False)
        self.scripts, self.handlers, self.loads, self.policy, self.tags, self._open = [], [], [], "", [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.handlers += [name for name in attributes if name.startswith("on")]
        self.loads += [value for name, value in attrs if name in ("src", "href") and value and not value.startswith("#")]
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        if tag == "script":
            self._open = attributes.get("type", "")
            self.scripts.append((self._open, ""))

    def handle_endtag(self, tag):
        if tag == "script":
            self._open = None

    def handle_data(self, data):
        if self._open is not None:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)


def faults(text):
    """What in the page could act without being ours."""
    page = Page(text)
    found = [f"attribute {name}" for name in page.handlers] + [f"loads {address}" for address in page.loads]
    for kind, script in page.scripts:
        told = "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
        if not kind and told not in page.policy:
            found.append(f"script {script[:40]}")
    if "unsafe-inline" in page.policy.split("script-src")[1].split(";")[0] or "default-src 'none'" not in page.policy:
        found.append("policy")
    return found


@pytest.fixture(scope="session")
def page_text(history_home, tmp_path_factory):
    from workflows_pkg.history.store import open_history

    with open_history(history_home) as con:
        return write_report(con, tmp_path_factory.mktemp("page") / "deep" / "report.html").read_text()


def test_page_is_one_file_that_loads_nothing_and_runs_only_our_scripts(page_text):
    assert faults(page_text) == []
    assert sum(not kind for kind, _ in Page(page_text).scripts) == 2
    assert 4e6 < len(page_text) < 7e6


def test_every_plot_has_its_place_and_both_templates_are_there(page_text):
    ((_, content),) = [(kind, text) for kind, text in Page(page_text).scripts if kind == "application/json"]
    value = json.loads(content)
    assert set(value["templates"]) == {"light", "dark"}
    assert len(value["figures"]) == 8
    for name in value["figures"]:
        assert f'id="{name}"' in page_text
    assert "prefers-color-scheme: dark" in page_text


def test_tables_hold_the_figures_and_unknown_ones_sort_last(page_text):
    body = page_text.split("<script")[0]
    assert "flights_daily" in body
    assert "steps.departures.timeout: none -&gt; 12s" in body
    assert re.search(r'<td class="figure" data-sort="">-</td>', body)
    assert re.search(r'<td class="figure" data-sort="[\d.]+">[\d.]+ (s|ms)</td>', body)
    assert "nan" not in body.lower().replace("finance", "")


def test_hostile_texts_do_not_act(hostile_con, tmp_path, sample):
    text = write_report(hostile_con, tmp_path / "report.html").read_text()
    assert faults(text) == []
    assert sample["HOSTILE"] not in text
    assert "&lt;script&gt;" in text, "the texts are shown, not dropped"
    assert "img" not in Page(text).tags


def test_control_a_page_that_does_not_escape_is_caught(page_text, sample):
    broken = page_text.replace("flights_daily", sample["HOSTILE"], 1)
    assert {fault.split()[0] for fault in faults(broken)} == {"attribute", "loads", "script"}
    assert faults(page_text.replace("script-src ", "script-src 'unsafe-inline' ")) == ["policy"]


def test_page_of_an_empty_history_says_so(empty, tmp_path):
    text = write_report(empty, tmp_path / "report.html").read_text()
    assert "Nothing has run yet" in text
    assert "no runs yet" in text
    assert faults(text) == []


def test_report_is_replaced_whole(con, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert write_report(con, path) == path
    assert path.read_text().endswith("</html>\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
