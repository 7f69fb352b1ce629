"""Records an instance of whichever Dagster runs this, and what that Dagster itself reads from it, for `test_recorded_versions`.

Writes `FOLDER/instance-<storage>-<version>.tar.xz`: the instance's databases, and `told.json`. It was run like this, with 1.9.13, 1.11.16,
1.12.22 and 1.13.27, and for both storages:

    python3.11 -m venv /tmp/dagster-1.9.13 && /tmp/dagster-1.9.13/bin/pip install dagster==1.9.13
    mkdir /tmp/rec && cp tests/orchestration/sources/recorded_*.py /tmp/rec && cd /tmp/rec
    /tmp/dagster-1.9.13/bin/python recorded_version.py . sharded
"""

import json
import sqlite3
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

import dagster as dg

SETTINGS = {
    "sharded": "telemetry: {enabled: false}\n",
    "consolidated": """\
telemetry: {enabled: false}
run_storage: {module: dagster._core.storage.runs, class: SqliteRunStorage, config: {base_dir: HOME/history}}
event_log_storage: {module: dagster._core.storage.event_log, class: ConsolidatedSqliteEventLogStorage, config: {base_dir: HOME/history}}
schedule_storage: {module: dagster._core.storage.schedules, class: SqliteScheduleStorage, config: {base_dir: HOME/schedules}}
""",
}


def detail(event):
    """What this Dagster says in its own objects of one event, beside the columns that all have."""
    data = event.event_specific_data
    if event.event_type_value == "STEP_SUCCESS":
        return {"seconds": data.duration_ms / 1000}
    if event.event_type_value in ("STEP_FAILURE", "STEP_UP_FOR_RETRY"):
        error = data.error
        while error.cause is not None:
            error = error.cause
        waited = {"seconds": data.seconds_to_wait or 0} if event.event_type_value == "STEP_UP_FOR_RETRY" else {}
        return {"error_class": error.cls_name, **waited}
    if event.event_type_value == "ASSET_MATERIALIZATION":
        made = data.materialization
        return {"asset_key": "/".join(made.asset_key.path), "partition_key": made.partition, "metadata": plain(made.metadata)}
    if event.event_type_value == "ASSET_CHECK_EVALUATION":
        return {"asset_key": "/".join(data.asset_key.path), "check_name": data.check_name, "passed": data.passed}
    return {}


def plain(metadata):
    return {name: value.value for name, value in metadata.items() if isinstance(value.value, int | float | str)}


def told(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        events = [
            {
                "run_id": run.run_id,
                "event_id": record.storage_id,
                "type": record.event_log_entry.dagster_event.event_type_value,
                "timestamp": record.event_log_entry.timestamp,
                "step_key": record.event_log_entry.step_key,
                "job_name": record.event_log_entry.job_name,
                "pid": record.event_log_entry.dagster_event.pid,
                **detail(record.event_log_entry.dagster_event),
            }
            for run in instance.get_runs()
            for record in instance.get_records_for_run(run.run_id, limit=None).records
            if record.event_log_entry.dagster_event is not None
        ]
        runs = {
            record.dagster_run.run_id: {
                "job": record.dagster_run.job_name,
                "status": record.dagster_run.status.value,
                "start": record.start_time,
                "end": record.end_time,
            }
            for record in instance.get_run_records()
        }
        return {
            "dagster": dg.__version__,
            "runs": runs,
            "events": events,
            "backfills": [b.backfill_id for b in instance.get_backfills()],
        }


def record(target, storage):
    import recorded_runs  # beside this file, wherever the two were copied

    with tempfile.TemporaryDirectory(prefix="recorded-") as folder:
        home = Path(folder)
        (home / "dagster.yaml").write_text(SETTINGS[storage].replace("HOME", folder))
        recorded_runs.record(home)
        (home / "told.json").write_text(json.dumps(told(home), indent=0))
        (home / "dagster.yaml").write_text(SETTINGS[storage])
        databases = sorted(home.rglob("*.db"))
        for file in databases:
            with closing(sqlite3.connect(file, isolation_level=None)) as con:
                con.execute("pragma wal_checkpoint(truncate)")
                con.execute("vacuum")
        with tarfile.open(target / f"instance-{storage}-{dg.__version__}.tar.xz", "w:xz") as archive:
            for file in [home / "dagster.yaml", home / "told.json", *databases]:
                archive.add(file, file.relative_to(home), filter=nobody)


def nobody(entry):
    """Without the person and the machine that recorded it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2])
