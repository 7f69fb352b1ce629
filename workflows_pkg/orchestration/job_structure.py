"""Which steps does a job have, and what does each wait for? Read from the snapshot of the job that Dagster keeps with its runs.

The snapshot is JSON whose words (`solid`, `composite`) are older than Dagster's present ones. Graphs inside graphs are resolved down to
the ops, whose paths are the step keys. A snapshot that cannot be read gives no steps: what a run's steps waited for is then unknown.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workflows_pkg.history.records import JobStep

_K8S = "dagster-k8s/config"
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_FACTORS = {"": 1.0, "m": 1e-3, **{unit: 1e3 ** (place + 1) for place, unit in enumerate("kMGTPE")}} | {
    f"{unit}i": 1024.0 ** (place + 1) for place, unit in enumerate("KMGTPE")
}


def job_steps(snapshot_id: str, stored: bytes) -> list[JobStep]:
    """The steps of one job snapshot, as `snapshots.snapshot_body` has it; empty where it cannot be read."""
    try:
        snapshot = json.loads(zlib.decompress(stored))
        graphs = {graph["name"]: graph for graph in snapshot["solid_definitions_snapshot"]["composite_solid_def_snaps"]}
        ops = {op["name"]: op.get("tags") or {} for op in snapshot["solid_definitions_snapshot"]["solid_def_snaps"]}
        top = _Graph(graphs, snapshot["dep_structure_snapshot"], "", {})
        return [
            JobStep(
                job_snapshot_id=snapshot_id,
                step=step,
                needs=json.dumps(sorted(needs)),
                memory_limit_mib=memory_limit_mib(ops[op]),
            )
            for step, op, needs in sorted(top.steps(), key=lambda found: found[0])
        ]
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def memory_limit_mib(tags: Mapping[str, str]) -> float | None:
    """The memory that the tags of an op allow its container on Kubernetes; None: they state none, or none that can be read.

    Suffixes as in Kubernetes' documentation of quantities: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/

    >>> memory_limit_mib({_K8S: '{"container_config": {"resources": {"limits": {"memory": "2Gi"}}}}'})
    2048.0
    """
    try:
        stated = json.loads(tags[_K8S])["container_config"]["resources"]["limits"]["memory"]
        found = _QUANTITY.fullmatch(str(stated).strip())
    except (ValueError, KeyError, TypeError):
        return None
    if found is None:
        return None
    size = float(found[1]) * _FACTORS[found[2] or ""] / 2**20
    return size if 0 < size < math.inf else None


@dataclass(frozen=True)
class _Graph:
    """One graph where it is used: its nodes, the path in front of their names, and the steps behind each of its own inputs."""

    graphs: Mapping[str, Any]
    structure: Mapping[str, Any]
    path: str
    inputs: Mapping[tuple[str, str], set[str]]

    def steps(self) -> Iterator[tuple[str, str, set[str]]]:
        """Every op below: its path, the name of its definition, and the steps it waits for."""
        for node in self.structure["solid_invocation_snaps"]:
            name = node["solid_name"]
            behind = self._behind(node)
            if node["solid_def_name"] in self.graphs:
                yield from self._inside(node, behind).steps()
            else:
                own = (steps for (node_name, _), steps in self.inputs.items() if node_name == name)
                yield self.path + name, node["solid_def_name"], set().union(*behind.values(), *own)

    def _behind(self, node: Mapping[str, Any]) -> dict[str, set[str]]:
        """The steps that feed each input of a node from within this graph, or through it."""
        found: dict[str, set[str]] = {}
        for given in node["input_dep_snaps"]:
            up = (self._sources(one["solid_name"], one["output_name"]) for one in given["upstream_output_snaps"])
            found[given["input_name"]] = set().union(*up, self.inputs.get((node["solid_name"], given["input_name"]), set()))
        return found

    def _inside(self, node: Mapping[str, Any], behind: Mapping[str, set[str]]) -> _Graph:
        graph = self.graphs[node["solid_def_name"]]
        inputs: dict[tuple[str, str], set[str]] = {}
        for mapped in graph["input_mapping_snaps"]:
            key = (mapped["mapped_solid_name"], mapped["mapped_input_name"])
            inputs[key] = inputs.get(key, set()) | behind.get(mapped["external_input_name"], set())
        return _Graph(self.graphs, graph["dep_structure_snapshot"], f"{self.path}{node['solid_name']}.", inputs)

    def _sources(self, name: str, output: str) -> set[str]:
        """The ops that make this output of a node."""
        node = next(one for one in self.structure["solid_invocation_snaps"] if one["solid_name"] == name)
        graph = self.graphs.get(node["solid_def_name"])
        if graph is None:
            return {self.path + name}
        inside = self._inside(node, {})
        made = (
            inside._sources(one["mapped_solid_name"], one["mapped_output_name"])
            for one in graph["output_mapping_snaps"]
            if one["external_output_name"] == output
        )
        return set().union(*made)
