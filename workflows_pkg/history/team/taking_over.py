"""How does another home become the writer when the old one is lost? From what the team has, which is all of its rows."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from workflows_pkg.errors import SetupError
from workflows_pkg.history.layout import layout
from workflows_pkg.history.records import RECORDS
from workflows_pkg.history.schema import names, quoted
from workflows_pkg.history.store import open_team, writer
from workflows_pkg.history.team.place import not_shared, team_place
from workflows_pkg.history.team.turn import claimed

_UNFINISHED = "taking-over"


def take_over(home: Path) -> int:
    """Makes `home`, which has no history yet, the writer of the team's, with all of its rows, and returns how many.

    The home that was it before is refused from then on. Killed, it is begun anew by the next call. Raises SetupError where history is not
    shared, the team has none or cannot be reached, or the home has rows of its own; BusyError while somebody writes.
    """
    place = team_place()
    if place is None:
        raise SetupError("History is not shared here.", fix="Set WORKFLOWS_HISTORY.")
    files = layout(home)
    mark = files.store / _UNFINISHED
    if mark.exists():
        shutil.rmtree(files.store)
    if files.hot.exists():
        raise SetupError(f"{files.home} has a history of its own.", fix="Name a home without one.")
    rows = 0
    with claimed(files, place):
        theirs = open_team(place)
        if theirs is None:
            raise SetupError(f"Nothing was published at {place.shown} yet.", fix="Run: workflows history sync")
        mark.touch()
        with closing(theirs), not_shared(), writer(home) as history:
            for record_type in RECORDS:
                wanted = names(record_type.model_fields)
                answer = theirs.execute(f"SELECT {wanted} FROM {quoted(record_type.table)}").to_arrow_reader(100_000)
                for batch in answer:
                    rows += history.upsert(record_type, pa.Table.from_batches([batch]))
    mark.unlink()
    with writer(home):  # publishes: from now on the team's rows are this home's
        pass
    return rows
