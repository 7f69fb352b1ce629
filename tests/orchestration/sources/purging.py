"""A process that starts others which archive, purge and restore, so that a test can kill them; forking spares each the imports.

Reads one JSON request a line; answers with the pid when the child is about to work, and with its exit code when it is gone.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

from workflows_pkg.history.archive import Archive
from workflows_pkg.history.archive_files import archive_files
from workflows_pkg.orchestration import purge as purging
from workflows_pkg.orchestration.archiving import alone, archive_runs, restore
from workflows_pkg.orchestration.purge import purge

MONTH = timedelta(days=30)


def work(what: str, home: Path, place: str) -> None:
    archive = Archive(archive_files(place))
    if what == "archive":
        archive_runs(home, archive, MONTH)
    elif what == "restore":
        restore(home, archive)
    elif what == "hold":
        with alone(home):
            Path(place).touch()
            sys.stdin.read()
    elif what == "purge unread":  # the broken way, as the control: what goes is not looked for in the archive
        purging._what_goes = lambda pieces, run: (
            [row.event_id for rows in pieces for row in rows if row.kind in purging.GOES][:-1],
            0,
        )
        purging._Purge._read_back = lambda self, part, where, wanted: {run_id: purging._Run() for run_id in wanted}
        purge(home, archive, MONTH, do=True)
    else:
        purge(home, archive, MONTH, do=True)


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                os.environ["WORKFLOWS_CRASH_AT"] = request["crash_at"]
                work(request["what"], Path(request["home"]), request["archive"])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        answer(pid)
        _, status = os.waitpid(pid, 0)
        answer(os.waitstatus_to_exitcode(status))


def answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
