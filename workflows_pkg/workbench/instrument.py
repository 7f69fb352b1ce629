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
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, overload

import dagster as dg

# What `dagster.definitions` makes has no public name; tests/workbench/test_instrument.py fails when it moves.
from dagster.components.definitions import LazyDefinitions

from workflows_pkg.errors import SetupError
from workflows_pkg.orchestration.crashes import telling_of_crashes
from workflows_pkg.orchestration.metering import METERED_TAG, First, is_metered, metered
from workflows_pkg.workbench.assets import NAMES, asset_key
from workflows_pkg.workbench.rebuild import Body, Changes, rebuilt

KEPT = "workflows/not_metered"
"""Metadata of the definitions: what stays without metering, and why; absent where everything is metered."""

_NOT_THEIRS = frozenset(map(asset_key, NAMES))
"""A job of theirs that selects all assets means all of theirs."""

_log = logging.getLogger("workflows")


@overload
def instrument(defs: dg.Definitions, tuning: str | Path | None = None) -> dg.Definitions: ...
@overload
def instrument(defs: Callable[..., dg.Definitions], tuning: str | Path | None = None) -> Callable[..., dg.Definitions]: ...
def instrument(defs: Any, tuning: str | Path | None = None) -> Any:
    """The same definitions, in which every attempt of a step reports what it used. Instrumenting twice is instrumenting once.

    defs: what a location offers, or what `@dg.definitions` made, which is then instrumented when Dagster loads it.
    tuning: the tuning file; a relative path is beside the module that calls this. None, or a file that is not there: no tuning.

    Never raises for what it finds in them: a definition that cannot be copied, an entry that fits nothing, a file that cannot be
    read. Raises SetupError where the line itself can have no effect: for something else than definitions, and in a module in which
    Dagster loads a function with `@dg.definitions` and passes over whatever stands beside it.
    """
    frame = inspect.currentframe()
    caller = frame.f_back if frame is not None else None
    if not isinstance(defs, dg.Definitions):
        return _lazily(defs, _beside(caller, tuning))
    passed_over = _loaded_instead(caller)
    if passed_over is not None:
        raise SetupError(
            f"Dagster loads the function '{passed_over}' of this module and passes over every Definitions beside it.",
            fix=f"Write the line inside of '{passed_over}': return {_LINE}",
        )
    return _instrumented(defs, _beside(caller, tuning))


_LINE = "dagster.Definitions.merge(instrument(mine), workbench()), where mine is what it returned before"


def _beside(caller: FrameType | None, tuning: str | Path | None) -> Path | None:
    """The tuning file in the folder of the module that calls; as it is named where that is no file."""
    module = caller.f_globals.get("__file__") if caller is not None else None
    return None if tuning is None else Path(tuning) if module is None else Path(module).parent / tuning


def _loaded_instead(caller: FrameType | None) -> str | None:
    """The name of a function with `@dg.definitions` in the module whose top level calls; None: there is none."""
    if caller is None or caller.f_code.co_name != "<module>":
        return None
    return next((name for name, value in caller.f_globals.items() if isinstance(value, LazyDefinitions)), None)


def _lazily(defs: Any, file: Path | None) -> Any:
    if not isinstance(defs, LazyDefinitions) and not inspect.isroutine(defs):
        raise _refused(defs)
    return LazyDefinitions[dg.Definitions](load_fn=_Later(defs, file), has_context_arg=getattr(defs, "has_context_arg", False))


@dataclass(frozen=True, repr=False)
class _Later:
    """Makes definitions and instruments them when Dagster asks, with the context of a component or without."""

    defs: Callable[..., Any]
    file: Path | None

    def __call__(self, *context: dg.ComponentLoadContext) -> dg.Definitions:
        loaded = self.defs(*context)
        if not isinstance(loaded, dg.Definitions):
            raise _refused(loaded)
        return _instrumented(loaded, self.file)

    def __repr__(self) -> str:
        """Told by Dagster to whoever merges these: it refuses to, and shows what it was given."""
        return (
            f"definitions that are made later, so that they cannot be merged here. Write inside of the function: return {_LINE}"
        )


def _refused(given: object) -> SetupError:
    return SetupError(
        f"instrument takes dagster.Definitions, not {type(given).__name__}.",
        fix="Give what the module offers to dagster.Definitions(assets=..., jobs=..., schedules=..., sensors=..., resources=...).",
    )


def _instrumented(defs: dg.Definitions, file: Path | None) -> dg.Definitions:
    changes, metadata = Changes(body=_body, left_out=_NOT_THEIRS, executor=telling_of_crashes), {}
    if file is not None and file.exists():
        # Here, because a process made for one step loads this module as well, and most have no tuning to read.
        from workflows_pkg.workbench.overlay import laid_over

        laid, said = laid_over(defs, file)
        metadata |= said
        changes = replace(
            changes,
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
