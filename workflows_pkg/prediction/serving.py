"""What was forecast for every observation of a history when it was submitted, and what would the simple rules have said?

The same replay and the same predictor as in an evaluation on recorded traces: what is served is what is judged.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from workflows_pkg.prediction.baselines.duration import DurationBaselines
from workflows_pkg.prediction.duration.predictor import BASES, FLOOR, DurationPredictor
from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.rows import Frame, numbers

COST_FLOOR = 1e-9
"""USD below which two costs are not told apart: about a tenth of a millisecond of one slot."""


REPLAYED = 60_000
"""The newest observations that are forecast again, to judge the experts; older ones are only observed. About 15 s on one core."""


def predictions(observations: Frame, floor: float = FLOOR, newest: int = REPLAYED) -> Frame:
    """What is served for every observation, made at its submission from what had finished strictly before.

    One row per observation on the same index; columns `p05`, `p50`, `p95`, `predictor` (what counted most in it), `count` (finished
    values of the key then known), one column per simple rule, `rule_p05` and `rule_p95` (quantiles of history). Where `count` is zero
    the forecast is borrowed from other steps, missing where there are none; rules and their quantiles are missing there. Of a long
    history only the `newest` rows have answers.
    """
    trace = as_trace(observations)
    ours = replay(trace, DurationPredictor(floor), newest=newest)
    rules = replay(trace, DurationBaselines(), newest=newest)
    names = np.array([*BASES, None], dtype=object)
    ours["predictor"] = names[ours.pop("basis").fillna(-1).to_numpy(int)]
    ours["count"] = ours["count"].fillna(0.0)
    return pd.concat([ours, rules], axis=1).set_axis(observations.index)


def as_trace(observations: Frame) -> Trace:
    """Observations of a history, in order of submission, as a trace; `value` is missing where an attempt teaches nothing."""
    partitions = [text if isinstance(text, str) and text else None for text in observations["partition_key"]]
    rows: Frame = pd.DataFrame(
        {
            "workflow": observations["job_name"].to_list(),
            "step": observations["step"].to_list(),
            "run_id": observations["run_id"].to_list(),
            "tag": pd.Series(partitions, dtype=object),
            "kind": None,
            "size": np.nan,
            "memory_requested_bytes": np.nan,
            "peak_memory_bytes": np.nan,
            "submitted_s": _seconds(observations["submitted_at"]),
            "finished_s": _seconds(observations["finished_at"]),
            "value": observations["value"].to_numpy(float),
        }
    )
    rows["retry"] = (numbers(observations["attempt"]).fillna(1) - 1).astype(int).to_numpy()
    rows["run_time_s"], rows["failed"] = rows["value"], rows["value"].isna().astype(float)
    nothing: Frame = pd.DataFrame(index=rows.index)
    return Trace("history", rows, nothing, nothing, "times", 0.0)


def _seconds(column: Frame) -> np.ndarray:
    return (column.astype("int64") / 1e9).where(column.notna()).to_numpy(float)
