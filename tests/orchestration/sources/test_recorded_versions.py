"""Instances that four versions of Dagster recorded land as those versions read them themselves."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Backfill, Run
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.translation import KINDS

RECORDINGS = sorted((Path(__file__).parents[2] / "recordings" / "logs").glob("instance-*.tar.xz"))
"""Made by `recorded_version.py` with the Dagster in their name."""

DETAILS = ("seconds", "error_class", "asset_key", "partition_key")
ENDS = ("PIPELINE_SUCCESS", "PIPELINE_FAILURE", "PIPELINE_CANCELED")
METADATA = {"path", "dagster/row_count", "size_bytes"}


def unpacked(archive: Path, home: Path) -> Mapping[str, Any]:
    """The recorded instance in `home`, and what the Dagster that recorded it read from it."""
    with tarfile.open(archive) as packed:
        packed.extractall(home, filter="data")
    settings = home / "dagster.yaml"
    settings.write_text(settings.read_text().replace("HOME", str(home)))
    return json.loads((home / "told.json").read_text())


def landed(home: Path) -> pd.DataFrame:
    with closing(open_history(home)) as con:
        return con.execute("select *, epoch(\"at\") as seconds_at from events where run_id <> '' order by run_id, event_id").df()


def differences(told: Mapping[str, Any], home: Path) -> list[str]:
    """What history has otherwise than the Dagster that recorded it."""
    events = {(row.run_id, row.event_id): row for row in landed(home).itertuples()}
    found = [f"not told: {key}" for key in set(events) - {(event["run_id"], event["event_id"]) for event in told["events"]}]
    for event in told["events"]:
        row: Any = events.get((event["run_id"], event["event_id"]))
        if row is None:
            found.append(f"not landed: {event}")
            continue
        data = json.loads(row.data) if isinstance(row.data, str) else {}
        expected: dict[str, Any] = {name: event[name] for name in DETAILS if event.get(name) is not None}
        expected |= {"kind": KINDS.get(event["type"], "other"), "step_key": event["step_key"], "process_id": event["pid"]}
        expected |= {"job_name": event["job_name"], "seconds_at": event["timestamp"]}
        expected |= {name: event[name] for name in ("check_name", "passed") if name in event}
        expected |= {name: value for name, value in event.get("metadata", {}).items() if name in METADATA}
        for name, value in expected.items():
            have = data[name] if name in data else getattr(row, name, None)
            have = None if not isinstance(have, str | list) and pd.isna(have) else have
            same = have == pytest.approx(value, abs=1e-5) if isinstance(value, float) else have == value
            if not same:
                found.append(f"{event['type']} {name}: {have!r} instead of {value!r}")
    return found


@pytest.mark.parametrize("archive", RECORDINGS, ids=lambda archive: archive.name.removesuffix(".tar.xz"))
def test_what_another_version_recorded_lands_as_that_version_reads_it(archive: Path, tmp_path: Path) -> None:
    told = unpacked(archive, tmp_path)
    result = sync_events(tmp_path, tmp_path)
    assert (result.events, result.quarantined, result.complete) == (len(told["events"]) + 1, 0, True)  # one from outside of runs
    assert differences(told, tmp_path) == []
    with closing(open_history(tmp_path)) as con:
        runs = {row.run_id: row for row in read(con, Run)}
        backfills = [row.backfill_id for row in read(con, Backfill)]
    assert backfills == told["backfills"] == ["fill"]
    assert set(runs) == set(told["runs"])
    ended = {event["run_id"]: event["timestamp"] for event in told["events"] if event["type"] in ENDS}
    for run_id, run in told["runs"].items():
        row = runs[run_id]
        assert (row.job_name, row.outcome) == (run["job"], run["status"].lower())
        assert row.started_at is None if run["start"] is None else row.started_at is not None
        assert row.ended_at is not None
        assert row.ended_at.timestamp() == pytest.approx(ended[run_id], abs=1e-5)


def test_there_are_recordings_of_four_minor_versions_in_both_storages() -> None:
    made = {tuple(path.name.removesuffix(".tar.xz").split("-")[1:]) for path in RECORDINGS}
    minors = {version.rsplit(".", 1)[0] for _, version in made}
    assert minors == {"1.9", "1.11", "1.12", "1.13"}
    assert len(made) == 8


def test_a_difference_is_seen(tmp_path: Path) -> None:
    """The control: what was told is changed in one place of each kind, and each is found."""
    told = unpacked(RECORDINGS[0], tmp_path)
    sync_events(tmp_path, tmp_path)
    by_type = {event["type"]: event for event in told["events"]}
    by_type["STEP_SUCCESS"]["seconds"] += 0.01
    by_type["STEP_FAILURE"]["error_class"] = "OtherError"
    by_type["ASSET_MATERIALIZATION"]["partition_key"] = "2020-01-03"
    by_type["ASSET_CHECK_EVALUATION"]["passed"] = not by_type["ASSET_CHECK_EVALUATION"]["passed"]
    by_type["PIPELINE_START"]["timestamp"] += 0.001
    told["events"].append({**by_type["STEP_START"], "event_id": 10_000})
    assert len(differences(told, tmp_path)) == 6
