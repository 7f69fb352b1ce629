"""What may the workflow files of this repository reach? Their data folder, the functions of `assets.flights`, one service nearby.

`assets/defs/workflows/defs.yaml` takes its values from here, by the names of the template variables below.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg

from workflows_pkg.errors import WorkflowsError
from workflows_pkg.security.allow import Allow
from workflows_pkg.security.secrets import Secrets

SECRETS = ("weather_service", "ops_channel")
"""Addresses that the workflow files use: `WORKFLOWS_SECRET_<NAME>`, or files below `<home>/secrets/`."""
TABLES = ("flights", "weather", "airlines", "airports", "planes")


def instance_home(environ: Mapping[str, str] = os.environ) -> Path:
    """The instance's folder: DAGSTER_HOME, or `.home` in the working directory."""
    return Path(environ.get("DAGSTER_HOME") or ".home").resolve()


def allowed(environ: Mapping[str, str] = os.environ) -> Allow:
    """The grants to the workflow files. The data folder is WORKFLOWS_DATA, or `data` in the instance's folder.

    Of this machine's own ports only the weather service's is granted, at the address known now.
    """
    home = instance_home(environ)
    return Allow(
        files=Path(environ.get("WORKFLOWS_DATA") or home / "data"),
        modules=("assets.flights",),
        hosts=_weather_service(Secrets(SECRETS, home / "secrets", environ)),
        tables={name: f"{name}.parquet" for name in TABLES},
        secrets=SECRETS,
    )


@dg.template_var
def granted_files() -> str:
    """The data folder."""
    return str(allowed().files)


@dg.template_var
def granted_modules() -> list[str]:
    """Modules whose functions may be called."""
    return list(allowed().modules)


@dg.template_var
def granted_hosts() -> list[str]:
    """The weather service's host and port; none where its address is not known."""
    return list(allowed().hosts)


@dg.template_var
def granted_tables() -> dict[str, str]:
    """Tables by name."""
    return dict(allowed().tables)


@dg.template_var
def granted_secrets() -> list[str]:
    """Names of secrets."""
    return list(allowed().secrets)


def _weather_service(secrets: Secrets) -> tuple[str, ...]:
    try:
        return (urlsplit(secrets.value("weather_service")).netloc,)
    except (WorkflowsError, ValueError):
        return ()  # the step that needs the address says what is missing; the other workflows run without it
