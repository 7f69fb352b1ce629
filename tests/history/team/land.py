"""Lands runs in the home that is named, as a program of its own, so that a test can let it die: `land.py HOME DAYS_AGO RUN...`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from workflows_pkg.history.records import Run
from workflows_pkg.history.store import writer


def main() -> None:
    home, days, *names = sys.argv[1:]
    at = datetime.now(UTC) - timedelta(days=float(days))
    with writer(Path(home), wait_s=0) as history:
        rows = [
            Run(run_id=name, source_id="here", job_name="etl", created_at=at, started_at=at, ended_at=at, outcome="success")
            for name in names
        ]
        history.upsert(Run, rows)
        if "wait" in names:
            sys.stdout.write("writing\n")
            sys.stdout.flush()
            sys.stdin.read()


if __name__ == "__main__":
    main()
