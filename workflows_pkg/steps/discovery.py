"""Which step kinds are there? The built-in ones, and those of installed plugins; a broken plugin is named and left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from workflows_pkg.errors import bounded
from workflows_pkg.steps.communication.notify import NOTIFY
from workflows_pkg.steps.conformance import check_step_kind
from workflows_pkg.steps.contract import StepKind
from workflows_pkg.steps.data.sql import SQL
from workflows_pkg.steps.data.tables import READ_TABLE, WRITE_TABLE
from workflows_pkg.steps.http import HTTP
from workflows_pkg.steps.python_call import PYTHON

GROUP = "workflows_pkg.steps"
"""Entry-point group in which plugins name their step kinds."""
BUILT_IN: tuple[StepKind[Any], ...] = (PYTHON, SQL, READ_TABLE, WRITE_TABLE, HTTP, NOTIFY)


@dataclass(frozen=True, order=True)
class BrokenPlugin:
    """A plugin that cannot be used. name: its entry point, with its distribution where known; reason: a sentence or more."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"Step kind plugin {self.name}: {self.reason}"


@dataclass(frozen=True)
class StepKinds:
    """The step kinds that can be used, by name, and the plugins that cannot."""

    kinds: Mapping[str, StepKind[Any]]
    broken: tuple[BrokenPlugin, ...] = ()

    def params(self) -> Mapping[str, type[BaseModel]]:
        """The parameter model of each kind, as the loader of workflow files takes them."""
        return {name: kind.params for name, kind in self.kinds.items()}


def discover() -> StepKinds:
    """The built-in kinds and those of the plugins installed in this environment."""
    return collect(entry_points(group=GROUP))


def collect(plugins: Iterable[EntryPoint]) -> StepKinds:
    """The built-in kinds and those that `plugins` load, in the order of their distributions' names.

    A name belongs to the first who has it, the built-in kinds before all: no plugin can take a name over.
    """
    kinds: dict[str, StepKind[Any]] = {kind.name: kind for kind in BUILT_IN}
    owners = dict.fromkeys(kinds, "the built-in kinds")
    broken: list[BrokenPlugin] = []
    for plugin in sorted(plugins, key=lambda plugin: (_distribution(plugin), plugin.name, plugin.value)):
        label = f"'{bounded(plugin.name)}'" + (f" of {_distribution(plugin)}" if _distribution(plugin) else "")
        loaded = _load(plugin)
        if isinstance(loaded, str):
            broken.append(BrokenPlugin(label, loaded))
        elif loaded.name in kinds:
            broken.append(BrokenPlugin(label, f"the name '{loaded.name}' is taken by {owners[loaded.name]}."))
        else:
            kinds[loaded.name] = loaded
            owners[loaded.name] = label
    return StepKinds(MappingProxyType(kinds), tuple(broken))


def _load(plugin: EntryPoint) -> StepKind[Any] | str:
    """The plugin's step kind, or why there is none."""
    try:
        kind = plugin.load()
        problems = check_step_kind(kind)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - other people's module runs here, and may raise or exit
        return f"cannot be loaded from {bounded(plugin.value)}: {type(error).__name__}: {bounded(error, 200)}."
    if not problems and kind.name != plugin.name:
        problems = [f"Its entry point is called '{bounded(plugin.name)}', the step kind '{kind.name}'; they must be the same."]
    return " ".join(problems) if problems else kind


def _distribution(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist is not None else ""
