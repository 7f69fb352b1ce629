"""Where are the files of one history, and which of them may whom open?

`<home>/history.duckdb` is the published copy: any DuckDB client may open it read-only, at any time and for as long as it likes.
Everything under `<home>/history.store/` belongs to the writer; the published copy names the sealed files by absolute path.
Why there are two files: docs/decisions/0001-history-files.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from workflows_pkg.errors import SetupError
from workflows_pkg.history.team.place import VARIABLE


@dataclass(frozen=True)
class Layout:
    """Paths of one history; nothing is created by asking for them."""

    home: Path

    @property
    def published(self) -> Path:
        """The copy for readers; replaced as a whole, never changed in place."""
        return self.home / "history.duckdb"

    @property
    def store(self) -> Path:
        """The writer's folder. Not `history`: a Dagster home has a folder of that name."""
        return self.home / "history.store"

    @property
    def hot(self) -> Path:
        """The database that only the writer opens: all rows that are not sealed."""
        return self.store / "hot.duckdb"

    @property
    def lock(self) -> Path:
        """Held by the writer; names its process."""
        return self.store / "writer.lock"

    @property
    def stamp(self) -> Path:
        """Which state of the hot database was published last."""
        return self.store / "published"

    @property
    def sealed(self) -> Path:
        """Finished days as Parquet: `<table>/<day>-<number>.parquet`, each file written once and never changed."""
        return self.store / "sealed"

    @property
    def team(self) -> Path:
        """What the writer of a team's history remembers: the copy that was carried last, by the name of its generation."""
        return self.store / "team"

    @property
    def team_id(self) -> Path:
        """The mark of the home that writes a team's history."""
        return self.team / "id"

    @property
    def writes_for_team(self) -> bool:
        """Whether this home writes a team's history, so that its own copy is the newest there is."""
        return self.team_id.exists()


def layout(home: Path) -> Layout:
    """The layout under `home`, made absolute, since views name files by absolute path."""
    return Layout(home.expanduser().absolute())


def default_home() -> Path:
    """The instance's folder where none is named: $DAGSTER_HOME, else `.home` here. Raises SetupError where there is none.

    Whoever only reads a team's history (WORKFLOWS_HISTORY) needs none: then it is the present folder.
    """
    named = os.environ.get("DAGSTER_HOME")
    home = Path(named or ".home")
    if not home.is_dir():
        if not named and os.environ.get(VARIABLE):
            return Path()
        if not named:
            raise SetupError("No instance is named.", fix="Set DAGSTER_HOME, use --home, or start with: make run")
        raise SetupError(f"The instance folder {home} of DAGSTER_HOME does not exist.", fix=f"Make it with: mkdir -p {home}")
    return home
