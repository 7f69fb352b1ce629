"""How does one line add metering, and what a tuning file says, to any code location?

    defs = dg.Definitions.merge(instrument(mine, tuning="tuning.yaml"), workbench())

The function of every op is wrapped (`orchestration.metering`), wherever the op is used: one event per attempt of a step, and nothing
else that Dagster shows. Retry policies and run timeouts of the tuning file are laid over in the same copies (`workbench.overlay`).
Without the line everything is as before; without an entry, what the entry was about is.

What cannot be copied or laid over stays as it was, is logged once, and is in the metadata of the definitions.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, overload

import dagster as dg

from workflows_pkg.orchestration.metering import METERED_TAG, First, is_metered, metered
from workflows_pkg.workbench.rebuild import Body, Changes, rebuilt

KEPT = "workflows/not_metered"
"""Metadata of the definitions: what stays without metering, and why; absent where everything is metered."""

_log = logging.getLogger("workflows")


@overload
def instrument(defs: dg.Definitions, tuning: str | Path | None = None) -> dg.Definitions: ...
@overload
def instrument(defs: Callable[..., dg.Definitions], tuning: str | Path | None = None) -> Callable[..., dg.Definitions]: ...
def instrument(defs: Any, tuning: str | Path | None = None) -> Any:
    """The same definitions, in which every attempt of a step reports what it used. Instrumenting twice is instrumenting once.

    defs: what a location offers, or what `@dg.definitions` made, which is then instrumented when Dagster loads it.
    tuning: the tuning file; a relative path is beside the module that calls this. None, or a file that is not there: no tuning.

    Never raises for what it finds: a definition that cannot be copied, an entry that fits nothing, a file that cannot be read.
    """
    file = None if tuning is None else _beside(inspect.currentframe(), Path(tuning))
    return _instrumented(defs, file) if isinstance(defs, dg.Definitions) else _lazily(defs, file)


def _beside(frame: FrameType | None, file: Path) -> Path:
    """`file` in the folder of the module that called the function of `frame`; as it is where that is no file."""
    caller = frame.f_back if frame is not None else None
    module = caller.f_globals.get("__file__") if caller is not None else None
    return file if file.is_absolute() or module is None else Path(module).parent / file


def _lazily(defs: Any, file: Path | None) -> Any:
    if not callable(defs):
        _log.warning("A %s cannot be instrumented; it stays as it is. Pass dagster.Definitions.", type(defs).__name__)
        return defs

    def made(*args: Any) -> Any:
        loaded = defs(*args)
        return _instrumented(loaded, file) if isinstance(loaded, dg.Definitions) else _lazily(loaded, file)

    if not getattr(defs, "has_context_arg", False):
        return dg.definitions(lambda: made())

    def with_context(context: dg.ComponentLoadContext) -> dg.Definitions:
        return made(context)

    return dg.definitions(with_context)


def _instrumented(defs: dg.Definitions, file: Path | None) -> dg.Definitions:
    changes, metadata = Changes(body=_body), {}
    if file is not None and file.exists():
        # Here, because a process made for one step loads this module as well, and most have no tuning to read.
        from workflows_pkg.workbench.overlay import laid_over

        laid, said = laid_over(defs, file)
        metadata |= said
        changes = Changes(
            body=lambda op, function: _body(op, function, laid.announce if id(op) in laid.tuned_ops else None),
            ops=laid.ops,
            graphs=laid.graphs,
            job=laid.job,
            requested=laid.requested,
        )
    made = rebuilt(defs, changes)
    for sentence in made.kept:
        _log.warning("%s", sentence)
    if made.kept:
        metadata[KEPT] = dg.MetadataValue.text("\n".join(made.kept))
    return made.defs if not metadata else _with_metadata(made.defs, metadata)


def _body(op: dg.OpDefinition, function: Body, first: First | None = None) -> Body:
    return function if op.tags.get(METERED_TAG) == "body" or is_metered(function) else metered(function, first)


def _with_metadata(defs: dg.Definitions, metadata: dict[str, Any]) -> dg.Definitions:
    return dg.Definitions(
        assets=defs.assets,
        asset_checks=defs.asset_checks,
        jobs=defs.jobs,
        schedules=defs.schedules,
        sensors=defs.sensors,
        resources=defs.resources,
        executor=defs.executor,
        loggers=defs.loggers,
        metadata={**defs.metadata, **metadata},
        component_tree=defs.component_tree,
    )
