"""How is an instance of Dagster read, whichever of its storages it has?"""

from workflows_pkg.orchestration.sources.opening import open_source
from workflows_pkg.orchestration.sources.rows import BackfillRow, RunBody, TickRow
from workflows_pkg.orchestration.sources.source import Source

__all__ = ["BackfillRow", "RunBody", "Source", "TickRow", "open_source"]
