"""How good are the forecasts beside the simple rules, on the same attempts? Replayed in order, each knowing only what had ended."""

from __future__ import annotations

import pandas as pd

from workflows_pkg.prediction.evaluation.attempts import LEAST_S, SERVED, macro_mean, replay, scores
from workflows_pkg.prediction.rows import Connection, Frame, attempts
from workflows_pkg.prediction.rules import RULES
from workflows_pkg.report.tables import Column, count, instant, quantity, share, text_table, words

MOST_ATTEMPTS = 20_000
"""The newest attempts that are replayed; more take longer than a person waits (about 13 s for these)."""


def replayed(con: Connection) -> Frame:
    """What was forecast for each of the newest attempts beside what happened, one row each; see `evaluation.replay`. Empty without any."""
    known = attempts(con).sort_values("started_at").tail(MOST_ATTEMPTS)
    return replay(known) if len(known) else pd.DataFrame()


def scored_attempts(table: Frame) -> Frame:
    """Those of the replayed attempts that errors are taken of: successful, long enough to measure, and not the first of their step."""
    return table[(table["value"] >= LEAST_S) & (table["count"] > 0)] if len(table) else table


def rule_comparison(con: Connection) -> pd.DataFrame:
    """Errors of the served forecast of step run time and of every simple rule, one row each, the served one first.

    Columns: `predictor`, `row_count` (successful attempts with history), `error_share` (the step's median absolute relative
    error, mean over steps), `weighted_error_share`, `coverage_share` of the 5 to 95 % interval. Empty without an attempt.
    """
    return compared(replayed(con))


def compared(table: Frame) -> pd.DataFrame:
    """The same of attempts that are replayed already."""
    known = scored_attempts(table)
    scored = scores(known) if len(known) else pd.DataFrame()
    if scored.empty:
        return pd.DataFrame(columns=["predictor", "row_count", "error_share", "weighted_error_share", "coverage_share"])
    means = macro_mean(scored).set_index("predictor")
    names = [SERVED, *RULES]
    found = means.loc[[name for name in names if name in means.index]].reset_index()
    return found[["predictor", "row_count", "error_share", "weighted_error_share", "coverage_share"]]


def step_comparison(table: Frame) -> pd.DataFrame:
    """Errors by step of attempts that are replayed, one row for each step, where being wrong cost the most seconds first.

    Columns: `job_name`, `step`, `attempts`, `run_time_s` (median), `error_share` of the served forecast, `best_rule` in hindsight,
    `best_rule_error_share`, `coverage_share` of the 5 to 95 % interval, `off_s` (sum of absolute errors). Without attempts that had
    a history, empty.
    """
    columns = [
        "job_name", "step", "attempts", "run_time_s", "error_share", "best_rule", "best_rule_error_share", "coverage_share", "off_s",
    ]  # fmt: skip
    known = scored_attempts(table)
    if known.empty:
        return pd.DataFrame(columns=columns)
    scored = scores(known)
    ours = scored[scored["predictor"] == SERVED].rename(columns={"row_count": "attempts"})
    rules = scored[scored["predictor"].isin(RULES)].dropna(subset=["error_share"])
    best = rules.loc[
        rules.groupby(["job_name", "step"])["error_share"].idxmin(), ["job_name", "step", "predictor", "error_share"]
    ]
    best = best.rename(columns={"predictor": "best_rule", "error_share": "best_rule_error_share"})
    off = known.assign(off_s=(known["p50"] - known["value"]).abs()).groupby(["job_name", "step"], as_index=False)
    off = off.agg(off_s=("off_s", "sum"), run_time_s=("value", "median"))
    found = ours.merge(best, on=["job_name", "step"]).merge(off, on=["job_name", "step"])
    return found.sort_values(["off_s", "job_name", "step"], ascending=[False, True, True])[columns].reset_index(drop=True)


def most_wrong(table: Frame, most: int = 10) -> pd.DataFrame:
    """The replayed attempts whose forecast was off by the most seconds, one row each, the worst first.

    Columns: `job_name`, `step`, `partition_key`, `asked_at`, `forecast_s`, `from_s`, `to_s`, `took_s`, `off_s` (took less forecast),
    `predictor` (what made the forecast).
    """
    names = {
        "job_name": "job_name", "step": "step", "partition_key": "partition_key", "submitted_at": "asked_at", "p50": "forecast_s",
        "p05": "from_s", "p95": "to_s", "value": "took_s", "off_s": "off_s", "predictor": "predictor",
    }  # fmt: skip
    known = scored_attempts(table)
    if known.empty:
        return pd.DataFrame(columns=[*names.values()])
    off = known.assign(off_s=known["value"] - known["p50"])
    worst = off.loc[off["off_s"].abs().sort_values(ascending=False, kind="stable").index].head(most)
    return worst[[*names]].rename(columns=names).reset_index(drop=True)


def readable(found: pd.DataFrame) -> pd.DataFrame:
    """A frame for a person: figures in the units that the columns' names carry, headings in words."""
    shown = found.copy()
    for name in shown.columns:
        signed = name == "off_s" and bool((found[name] < 0).any())
        if str(name).endswith(("_s", "_share", "_usd")):
            shown[name] = [quantity(value, str(name), signed=signed) for value in found[name]]
        elif str(name).endswith("_at"):
            shown[name] = [instant(value) for value in found[name]]
        else:
            shown[name] = ["-" if value is None or value != value else value for value in found[name]]
            if str(name) in ("predictor", "best_rule"):
                shown[name] = [words(str(value)) for value in shown[name]]
    headings = {
        "job_name": "job",
        "partition_key": "partition",
        "asked_at": "asked for (UTC)",
        "coverage_share": "in the interval",
    }
    return shown.rename(columns={name: headings.get(str(name), words(str(name))) for name in shown.columns})


def comparison_table(found: pd.DataFrame, width: int = 100) -> str:
    """The comparison as text."""
    columns = [
        Column("run time of steps, by"),
        Column("attempts", figures=True),
        Column("error, mean over steps", figures=True),
        Column("error, by time", figures=True),
        Column("in the 90 % interval", figures=True),
    ]
    rows = [
        [
            "this forecast" if row["predictor"] == SERVED else words(str(row["predictor"])),
            count(row["row_count"]),
            share(row["error_share"]),
            share(row["weighted_error_share"]),
            share(row["coverage_share"]),
        ]
        for row in found.to_dict("records")
    ]
    return text_table(columns, rows, width=width, indent=2)
