"""Who carries a history to the team? The one home that began it, one process at a time, by a lock that PostgreSQL holds.

Writing goes on without PostgreSQL and S3: rows land in the writer's home, and the publication is made up for when both answer again.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import duckdb

from workflows_pkg.errors import BusyError, SetupError, WorkflowsError
from workflows_pkg.history.layout import Layout
from workflows_pkg.history.lock import not_for_children
from workflows_pkg.history.team.carrying import carry, tidy
from workflows_pkg.history.team.lake import CATALOGUE, connect_catalogue, driver, explained
from workflows_pkg.history.team.place import TeamPlace, team_place
from workflows_pkg.history.team.status import read_status, write_status

TRY_AGAIN_AFTER = timedelta(seconds=30)
"""After a failure the team's servers are left alone for this long: a sync every five seconds would wait for them each time."""

TIDY_AFTER = timedelta(hours=1)
"""Rows that changed since are tables in PostgreSQL, where every question reads all of them."""

_LOOK_AGAIN_S = 0.1
_LOCK = 7_305_422_161_183_014_515
"""The number of the lock within its database, any that nobody else takes: the first letters of "workflows" read as one."""

_log = logging.getLogger("workflows.history")


class Turn:
    """The right to publish to the team, while its `with` block lasts. Without a connection it publishes nothing."""

    def __init__(self, files: Layout, place: TeamPlace, connection: Any) -> None:
        self._files = files
        self._place = place
        self._connection = connection

    def publish(self) -> None:
        """Carries the published copy to the team; a failure is said in the log and remembered, and the next publication makes up for it."""
        if self._connection is None:
            return
        status = read_status(self._files, self._place.shown)
        try:
            with self._connection.cursor() as cursor:  # whoever lost the connection has lost the lock
                cursor.execute("select 1")
            generation = carry(self._files, self._place, status.generation)
        except (duckdb.Error, OSError, WorkflowsError, driver().Error) as error:
            self._connection = None
            failed(self._files, self._place, explained(self._place, error))
            return
        if generation == status.generation and status.failing_since is None:
            return
        status = status.succeeded(generation)
        write_status(self._files, status)
        if status.tidied_at is None or datetime.now(UTC) - status.tidied_at > TIDY_AFTER:
            self._tidy()

    def _tidy(self) -> None:
        status = read_status(self._files, self._place.shown)
        try:
            if status.tidied_at is not None:
                tidy(self._place)
        except (duckdb.Error, WorkflowsError) as error:
            _log.warning("The team's history was not tidied up, and will be in an hour: %s", explained(self._place, error))
        write_status(self._files, status.model_copy(update={"tidied_at": datetime.now(UTC)}))


@contextmanager
def turn(files: Layout, wait_s: float) -> Generator[Turn | None]:
    """The turn of this process to write the team's history, waited for `wait_s` seconds; None where history is not shared.

    Raises BusyError, naming the holder, where another process has it; SetupError where another home writes this team's history, or
    where a home that never did cannot reach PostgreSQL.
    """
    place = team_place()
    if place is None:
        yield None
        return
    files.team.mkdir(parents=True, exist_ok=True)
    status = read_status(files, place.shown)
    if files.writes_for_team and status.tried_at is not None and datetime.now(UTC) - status.tried_at < TRY_AGAIN_AFTER:
        yield Turn(files, place, None)
        return
    try:
        connection = connect_catalogue(place, f"workflows {socket.gethostname()} process {os.getpid()}")
    except SetupError as error:
        if not files.writes_for_team:
            raise
        failed(files, place, error.message)
        yield Turn(files, place, None)
        return
    with closing(connection), not_for_children(connection.fileno()):
        connection.autocommit = True
        _acquire(connection, place, wait_s)
        _claim(connection, place, files)
        yield Turn(files, place, connection)


@contextmanager
def claimed(files: Layout, place: TeamPlace) -> Generator[None]:
    """Holds the team's turn while the block makes `files` as rich as the team's history, and then names it the writer.

    Raises BusyError where another process has the turn, SetupError where PostgreSQL cannot be reached.
    """
    connection = connect_catalogue(place, f"workflows {socket.gethostname()} process {os.getpid()}")
    with closing(connection), not_for_children(connection.fileno()):
        connection.autocommit = True
        _acquire(connection, place, 0)
        files.team.mkdir(parents=True, exist_ok=True)
        yield
        mine = uuid4().hex
        files.team_id.write_text(mine)
        with connection.cursor() as cursor:
            cursor.execute(
                f"update {CATALOGUE}.workflows_writer set id = %s, host = %s, home = %s, since = now()",
                [mine, socket.gethostname(), str(files.home)],
            )


def failed(files: Layout, place: TeamPlace, reason: str) -> None:
    """Remembers, and says once, that the team's history could not be brought up to date."""
    status = read_status(files, place.shown)
    if status.failing_since is None:
        _log.warning(
            "The team's history at %s was not brought up to date: %s Rows land in %s meanwhile; it is tried again every %d s.",
            place.shown, reason, files.home, TRY_AGAIN_AFTER.total_seconds(),
        )  # fmt: skip
    write_status(files, status.failed(reason))


def _acquire(connection: Any, place: TeamPlace, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    with connection.cursor() as cursor:
        for setting, seconds in (("tcp_keepalives_idle", 10), ("tcp_keepalives_interval", 5), ("tcp_keepalives_count", 3)):
            cursor.execute(f"set {setting} = {seconds}")  # a machine that vanished keeps the lock for 25 s, not for two hours
        while True:
            cursor.execute("select pg_try_advisory_lock(%s)", [_LOCK])
            if cursor.fetchone()[0]:
                return
            if time.monotonic() >= deadline:
                cursor.execute(
                    "select application_name from pg_stat_activity join pg_locks using (pid) "
                    "where locktype = 'advisory' and granted and (classid::bigint << 32) + objid::bigint = %s",
                    [_LOCK],
                )
                holder = str((cursor.fetchone() or ("another process",))[0])
                raise BusyError(
                    f"{holder.removeprefix('workflows ')} is writing the team's history at {place.shown}, and did not finish within "
                    f"{wait_s:g} s.",
                    fix="Wait until it is done and try again. Readers need not wait.",
                )
            time.sleep(_LOOK_AGAIN_S)


def _claim(connection: Any, place: TeamPlace, files: Layout) -> None:
    """Makes this home the writer of a team's history that has none; raises SetupError where it has another."""
    mark = files.team_id
    mine = mark.read_text().strip() if mark.exists() else uuid4().hex
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"create schema if not exists {CATALOGUE}")
            cursor.execute(
                f"create table if not exists {CATALOGUE}.workflows_writer (id text, host text, home text, since timestamptz)"
            )
            cursor.execute(f"select id, host, home from {CATALOGUE}.workflows_writer")
            found = cursor.fetchone()
            if found is None:
                cursor.execute(
                    f"insert into {CATALOGUE}.workflows_writer values (%s, %s, %s, now())",
                    [mine, socket.gethostname(), str(files.home)],
                )
    except driver().Error as error:
        raise SetupError(
            f"The team's history on PostgreSQL at {place.catalogue.place} cannot be written: {explained(place, error)}",
            fix="Grant CREATE on the database to this user.",
        ) from None
    if found is not None and found[0] != mine and mark.exists():
        taken = f"{found[2]} on {found[1]} has taken over the team's history at {place.shown}; this home is its writer no more."
        status = read_status(files, place.shown)
        since = {"failing_since": status.failing_since or datetime.now(UTC), "reason": taken}
        write_status(files, status.model_copy(update=since))  # for doctor; without `tried_at`, as no later try can succeed
        raise SetupError(taken, fix="Sync there; or unset WORKFLOWS_HISTORY here, to go on for this machine alone.")
    if found is not None and found[0] != mine:
        raise SetupError(
            f"The team's history at {place.shown} is written by {found[2]} on {found[1]}, and this is another home.",
            fix="Sync there; here it is only read. Is that home lost? Run: workflows history take-over",
        )
    if not mark.exists():
        mark.write_text(mine)
