"""How well is it told what steps take on machines where they never ran? Beside published predictions for the same rows.

`--traces DIR` looks for `tasks.parquet` with rows labelled train-… and test, tables of benchmarks of machines beside it, and a table of
published predictions (columns `Machine`, `Workflow`, `TaskName`, `Estimator`, `SizeInput`, `Predicted` and `Real` in milliseconds; the
number behind a workflow's name counts the train labels from 0), as the authors of Lotaru publish them: Bader et al., "Lotaru: Locally
Predicting Workflow Task Runtimes for Resource Management on Heterogeneous Infrastructures", 2023. Learned is on the machine at hand alone.

One row per group of rows: the median of |predicted - real| / real in %, ours beside every published estimator, and beside the simple rules
that know the benchmarks as ours does (least squares on the size, and the median, times the factor of the machine).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from workflows_pkg.prediction.baselines.duration import DurationBaselines
from workflows_pkg.prediction.duration.predictor import DurationPredictor
from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.evaluation.traces import read_trace

AT_HAND = "local"


def predicted(path: Path) -> pd.DataFrame:
    """Every test row once per train label: the names it is published under, the truth in seconds, ours, and the rules on its machine."""
    table = pd.read_parquet(path)
    found: list[pd.DataFrame] = []
    for trace in read_trace(path):
        label = trace.name.rpartition("/")[2]
        rows = trace.rows
        ours, rules = replay(trace, DurationPredictor()), replay(trace, DurationBaselines())
        workflow = rows["workflow"].iloc[0]
        named = {
            one: place for place, one in enumerate(sorted(one for one in table["label"].unique() if one.startswith("train")))
        }
        of_trace = table[(table["workflow"] == workflow) & (table["label"] == "test")]
        asked = rows["submitted_s"] == 1
        assert np.allclose(rows.loc[asked, "value"], of_trace["duration_s"]), "the rows of the trace are not those of the table"
        found.append(
            pd.DataFrame(
                {
                    "Machine": of_trace["machine"].to_numpy(),
                    "Workflow": f"{workflow.upper()}-{named[label]}",
                    "TaskName": rows.loc[asked, "step"].to_numpy(),
                    "SizeInput": of_trace["workflow_input_bytes_uncompressed"].to_numpy(float),
                    "truth": rows.loc[asked, "value"].to_numpy(),
                    "ours": ours.loc[asked, "p50"].to_numpy(),
                    **{
                        f"{rule}_x_benchmark": (rules[rule] * rows["machine_factor"])[asked].to_numpy()
                        for rule in ("regression", "median")
                    },
                }
            )
        )
    return pd.concat(found, ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, metavar="DIR", required=True, help="the folder of traces")
    asked = parser.parse_args()
    for path in sorted(asked.traces.rglob("tasks.parquet")):
        published = next(iter(sorted(path.parent.glob("*peer_predictions*.parquet"))), None)
        if published is None:
            continue
        peers = pd.read_parquet(published)
        key = ["Machine", "Workflow", "TaskName", "SizeInput"]
        wide = (
            peers.pivot_table(index=key, columns="Estimator", values="Predicted").drop(columns="Perfect", errors="ignore") / 1000
        )
        rows = predicted(path).merge(wide.reset_index(), on=key)
        estimators = [name for name in rows.columns if name not in (*key, "truth")]
        off = rows[estimators].sub(rows["truth"], axis=0).abs().div(rows["truth"], axis=0)
        here = rows["Machine"] == AT_HAND
        groups = {"all": here | ~here, "other machines": ~here, "the machine at hand": here}
        groups |= {name: rows["Workflow"] == name for name in sorted(rows["Workflow"].unique())}
        for name, chosen in groups.items():
            middle = {one: float(f"{100 * off.loc[chosen, one].median():.4g}") for one in estimators}
            ours = middle.pop("ours")
            line = {
                "benchmark": "other_machines",
                "case": f"{path.parent.name}, {name}",
                "metric": "MdAPE",
                "unit": "%",
                "ours": ours,
            }
            target = middle.get("Lotaru-A")
            line |= {"peers": middle, "target": target, "met": None if target is None else ours <= target, "runs": 1}
            print(json.dumps(line | {"size": int(chosen.sum())}), flush=True)


if __name__ == "__main__":
    main()
