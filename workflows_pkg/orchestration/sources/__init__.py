"""How is an instance of Dagster read, whichever of its storages it has?"""

from workflows_pkg.orchestration.sources.opening import open_source
from workflows_pkg.orchestration.sources.rows import RunBody, TickRow
from workflows_pkg.orchestration.sources.source import Source

__all__ = ["RunBody", "Source", "TickRow", "open_source"]
