"""Each picture shows what the records say, with units, and says what is missing where there is nothing."""

import numpy as np
import pandas as pd
import pytest

from workflows_pkg.report import forecast_plots, plots, quality_plots
from workflows_pkg.report.axes import duration_axis, label, log_duration_axis, unit_axis
from workflows_pkg.report.comparison import replayed, step_comparison

FIGURES = {
    name: getattr(module, name)
    for module, names in (
        (plots, ("runs_over_time", "where_time_goes", "failures_and_retries", "ledger", "run_timeline")),
        (forecast_plots, ("step_durations", "forecast_errors", "forecast_against_actual")),
    )
    for name in names
} | {
    "step_errors": lambda con: quality_plots.step_errors(step_comparison(replayed(con))),
    "coverage": lambda con: quality_plots.coverage(step_comparison(replayed(con))),
    "error_by_history": lambda con: quality_plots.error_by_history(replayed(con)),
    "attempts_against_forecasts": lambda con: quality_plots.attempts_against_forecasts(replayed(con)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_has_a_title_a_reading_aid_and_named_axes(con, name):
    drawn = FIGURES[name](con)
    assert drawn.layout.title.text
    assert drawn.layout.title.subtitle.text
    assert drawn.data
    titles = [axis.title.text for axis in [*drawn.select_xaxes(), *drawn.select_yaxes()]]
    assert any(titles)
    assert drawn.to_json()


@pytest.mark.parametrize("name", FIGURES)
def test_without_data_the_figure_says_what_is_missing(empty, name):
    drawn = FIGURES[name](empty)
    assert not drawn.data
    assert drawn.layout.annotations[0].text.startswith(("No", "Nothing"))


@pytest.mark.parametrize("name", FIGURES)
def test_hostile_names_stay_text(hostile_con, name):
    text = FIGURES[name](hostile_con).to_json()
    for form in ("<script", "<img", "\\u003cscript", "\\u003cimg"):
        assert form not in text.lower()


def test_every_run_is_in_the_bars(con):
    drawn = plots.runs_over_time(con)
    counted = {trace.name: int(np.sum(trace.y)) for trace in drawn.data}
    found = dict(con.execute("SELECT outcome, count(*) FROM runs GROUP BY 1").fetchall())
    assert counted == found


def test_time_of_each_step_is_the_sum_of_its_attempts(con):
    drawn = plots.where_time_goes(con)
    run = next(trace for trace in drawn.data if trace.name == "run")
    shown = dict(zip(run.y, run.x, strict=True))
    (total,) = con.execute("SELECT sum(run_time_s) FROM step_attempts WHERE step = 'score'").fetchone()
    assert shown["flights_daily / score"] == pytest.approx(total)


def test_timeline_shows_the_run_that_was_asked_for_with_waits_between_attempts(con):
    (run_id,) = con.execute("SELECT run_id FROM step_attempts WHERE attempt = 2 AND step = 'score' LIMIT 1").fetchone()
    drawn = plots.run_timeline(con, run_id)
    traces = {trace.name: trace for trace in drawn.data}
    assert "flights_daily" in drawn.layout.title.text
    wait = con.execute(
        "SELECT retry_wait_s FROM step_attempts WHERE run_id = ? AND attempt = 1 AND step = 'score'", [run_id]
    ).fetchone()
    assert traces["retry wait"].x[0] == pytest.approx(wait[0])
    assert traces["failure"].base[0] > traces["queue and start"].x[0]
    assert "No run" in plots.run_timeline(con, "not-there").layout.annotations[0].text


def test_newest_forecast_band_reaches_beyond_the_last_attempt(con):
    drawn = forecast_plots.step_durations(con)
    band = next(trace for trace in drawn.data if trace.name == "forecast, 90 %")
    dots = next(trace for trace in drawn.data if trace.name == "attempt")
    assert band.x[-1] > dots.x[-1]


def test_ledger_that_could_not_measure_is_left_out_of_the_picture(writable, sample):
    entry = next(record for record in sample["records"]() if record.table == "ledger")
    unmeasured = entry.model_copy(update=dict.fromkeys(("realised", "realised_low", "realised_high"), float("nan")))
    assert not plots.ledger(writable([unmeasured])).data


def test_axes_carry_units_and_hold_the_data():
    axis = duration_axis(0, 185, "time")
    assert axis["ticktext"][:4] == ["0 s", "1m", "2m", "3m"] or axis["ticktext"][:3] == ["0 s", "30 s", "1m"]
    assert axis["range"][1] > 185
    assert duration_axis(-0.9, -0.1, "change", signed=True)["ticktext"][0].startswith("-")
    assert unit_axis("cost_usd", 0, 0.00004, "cost")["ticktext"][1].startswith("$0.0000")
    assert unit_axis("failure_share", -0.2, 0.1, "change", signed=True)["ticktext"][-1] == "+10 %"
    for broken in ((0, 0), (0, float("nan")), (0, float("inf"))):
        assert duration_axis(*broken, "time")["tickvals"]


def test_labels_are_escaped_and_cut():
    assert label("<b>x</b>") == "&lt;b&gt;x&lt;/b&gt;"
    assert len(label("x" * 500)) == 44


@pytest.mark.parametrize(("low", "high"), [(0.01, 20.0), (40.0, 7_000.0), (0.2, 0.9), (1e-6, 1e6), (5.0, 5.0)])
def test_a_logarithmic_axis_of_times_is_labelled_as_people_say_them(low, high):
    axis = log_duration_axis(low, high, "")
    assert len(axis["ticktext"]) == len(set(axis["ticktext"])) <= 9
    assert not [text for text in axis["ticktext"] if "m" in text and text.endswith("s") and "ms" not in text], (
        "16m40s is no label"
    )
    assert all(low / 2 <= tick <= high * 2 for tick in axis["tickvals"])


def test_coverage_tells_what_few_outcomes_may_be_by_chance_from_what_is_not():
    cases = {"few": (5, 0.6), "many": (500, 0.6), "right": (500, 0.9)}
    rows = [{"job_name": "job", "step": step, "attempts": n, "coverage_share": held} for step, (n, held) in cases.items()]
    steps = pd.DataFrame(rows)
    drawn = {trace.name: list(trace.y) for trace in quality_plots.coverage(steps).data}
    assert drawn == {"may be 90 %": ["job / right (500)"], "is not 90 %": ["job / few (5)", "job / many (500)"]}
    steps.loc[0, "coverage_share"] = 0.8
    drawn = {trace.name: list(trace.y) for trace in quality_plots.coverage(steps).data}
    assert drawn["may be 90 %"] == ["job / few (5)", "job / right (500)"], "4 of 5 may well be 90 %"
