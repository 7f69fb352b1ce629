"""How good are the forecasts beside the simple rules, on the same attempts? Replayed in order, each knowing only what had ended."""

from __future__ import annotations

import pandas as pd

from workflows_pkg.prediction.evaluation.attempts import SERVED, macro_mean, replay, scores
from workflows_pkg.prediction.rows import Connection, attempts
from workflows_pkg.prediction.rules import RULES
from workflows_pkg.report.tables import Column, count, share, text_table, words

MOST_ATTEMPTS = 20_000
"""The newest attempts that are replayed; more take longer than a person waits (about 13 s for these)."""


def rule_comparison(con: Connection) -> pd.DataFrame:
    """Errors of the served forecast of step run time and of every simple rule, one row each, the served one first.

    Columns: `predictor`, `row_count` (successful attempts with history), `error_share` (the step's median absolute relative
    error, mean over steps), `weighted_error_share`, `coverage_share` of the 5 to 95 % interval. Empty without an attempt.
    """
    known = attempts(con).sort_values("started_at").tail(MOST_ATTEMPTS)
    scored = scores(replay(known)) if len(known) else pd.DataFrame()
    if scored.empty:
        return pd.DataFrame(columns=["predictor", "row_count", "error_share", "weighted_error_share", "coverage_share"])
    means = macro_mean(scored).set_index("predictor")
    names = [SERVED, *RULES]
    found = means.loc[[name for name in names if name in means.index]].reset_index()
    return found[["predictor", "row_count", "error_share", "weighted_error_share", "coverage_share"]]


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
