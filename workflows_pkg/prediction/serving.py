"""What was forecast for every observation of a history when it was submitted, and what would the simple rules have said?

The same replay and the same predictor as in an evaluation on recorded traces: what is served is what is judged.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from workflows_pkg.prediction.baselines.duration import DurationBaselines
from workflows_pkg.prediction.duration.predictor import BASES, FLOOR, DurationPredictor
from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.live.choosing import Choice, Switch
from workflows_pkg.prediction.live.times import ALONE, judged
from workflows_pkg.prediction.rows import Frame, numbers

COST_FLOOR = 1e-9
"""USD below which two costs are not told apart: about a tenth of a millisecond of one slot."""


REPLAYED = 60_000
"""The newest observations that are forecast again, to judge the experts; older ones are only observed. About 15 s on one core."""


def predictions(observations: Frame, floor: float = FLOOR, newest: int = REPLAYED) -> Frame:
    """What is served for every observation, made at its submission from what had finished strictly before.

    One row per observation on the same index; columns `p05`, `p50`, `p95`, `predictor` (the rule that answered alone, or what counted most
    in the weighing), `count` (finished values of the key then known), one column per simple rule, `rule_p05` and `rule_p95` (quantiles of
    history). Where `count` is zero the forecast is borrowed from other steps, missing where there are none; rules and their quantiles are
    missing there. Of a long history only the `newest` rows have answers.
    """
    asked = np.arange(len(observations)) >= len(observations) - newest
    return predictions_and_choices(observations, floor, asked)[0]


def predictions_and_choices(
    observations: Frame, floor: float, asked: np.ndarray, carried: Mapping[tuple[str, str], Switch] | None = None
) -> tuple[Frame, dict[tuple[str, str], Choice]]:
    """`predictions`, with answers of the rows `asked` only and the column `weighed_p50`, the middle that the weighing said; and which
    predictor serves each job and step.

    `carried`: what an earlier training had changed, by job and step.
    """
    trace = as_trace(observations)
    ours = replay(trace, DurationPredictor(floor), asked=asked)
    rules = replay(trace, DurationBaselines(), asked=asked)
    ours["count"] = ours["count"].fillna(0.0)
    found = judged(pd.concat([trace.rows, ours, rules], axis=1), carried)
    names = np.array([*BASES, None], dtype=object)
    weighed = names[ours["basis"].fillna(-1).to_numpy(int)]
    ours["predictor"] = np.where(pd.isna(found.rule), weighed, pd.Series(found.rule).map(ALONE))
    ours["weighed_p50"] = ours["p50"]
    ours[["p05", "p50", "p95"]] = found.ends
    return pd.concat([ours.drop(columns="basis"), rules], axis=1).set_axis(observations.index), found.choices


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
