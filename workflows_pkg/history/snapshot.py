"""How does somebody get a copy of history of their own, one file that needs nothing else?"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

from workflows_pkg.errors import SetupError, bounded
from workflows_pkg.history.publish import sync
from workflows_pkg.history.records import RECORDS
from workflows_pkg.history.schema import literal, quoted
from workflows_pkg.history.store import open_history


def write_snapshot(home: Path, target: Path) -> int:
    """Writes every table of the published history into the new DuckDB file `target`, and returns the number of rows.

    One state of all tables, the sealed days with it; `target` appears when it is whole. Raises SetupError where it exists already or
    cannot be written, or the history cannot be read.
    """
    if target.exists():
        raise SetupError(f"{target} is there already.", fix="Name a file that does not exist yet.")
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    rows = 0
    try:
        with open_history(home) as history, duckdb.connect(str(unfinished)) as copy:
            for record_type in RECORDS:
                table = quoted(record_type.table)
                answer = history.execute(f"select * from {table}")
                copy.register("answer", answer.to_arrow_reader())
                copy.execute(f"create table {table} as from answer")
                copy.execute(f"comment on table {table} is {literal((record_type.__doc__ or '').strip())}")
                copy.unregister("answer")
                rows += int(copy.execute(f"select count(*) from {table}").fetchall()[0][0])
        sync(unfinished)
        os.replace(unfinished, target)
        sync(target.absolute().parent)
    except (OSError, duckdb.IOException) as error:
        raise SetupError(
            f"{target} could not be written: {bounded(error, 200)}.", fix="Check the folder and its room."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
        unfinished.with_name(f"{unfinished.name}.wal").unlink(missing_ok=True)
    return rows
