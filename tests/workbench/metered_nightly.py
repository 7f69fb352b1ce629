"""A code location with one job of two metered steps; the author of the first says how much memory it may use."""

from __future__ import annotations

import dagster as dg

from workflows_pkg.workbench.instrument import instrument

LIMIT = {"dagster-k8s/config": {"container_config": {"resources": {"limits": {"memory": "4Gi"}}}}}


@dg.op(tags=LIMIT)
def wide() -> int:
    held = bytearray(96 * 2**20)
    held[::4096] = b"1" * len(held[::4096])  # resident once it is written to
    return len(held)


@dg.op
def narrow(size: int) -> int:
    return size


@dg.job
def nightly() -> None:
    narrow(wide())


defs = instrument(dg.Definitions(jobs=[nightly]))
