"""Commands for authors: a new workflow file, and every mistake in the ones there are."""

from __future__ import annotations

from pathlib import Path

import click

from workflows_pkg.cli.output import answer, json_option
from workflows_pkg.errors import Problem, SetupError, SpecError
from workflows_pkg.orchestration.compile import compile_workflow
from workflows_pkg.orchestration.compiled import clashes
from workflows_pkg.security.allow import Allow
from workflows_pkg.spec.canonical import digest
from workflows_pkg.spec.loader import load, load_folder, load_text
from workflows_pkg.spec.model import Workflow
from workflows_pkg.steps.discovery import StepKinds, discover

_FOLDERS = ("assets/workflows", "workflows")

_TEMPLATES = {
    "minimal": """\
workflow: {name}
description: Says what it is for, in a sentence.
steps:
  numbers:
    uses: data.sql
    with: {{query: "select range as n from range(10)"}}
  total:
    uses: data.sql
    needs: [numbers]
    with: {{query: "select sum(n) as total from numbers"}}
    produces: {name}/total
    checks: [{{rows: {{min: 1, max: 1}}}}]
""",
    "daily": """\
workflow: {name}
description: One run for each day, cleaned and checked.
owner: data-team
partitions: {{daily: {{start: 2025-01-01}}}}
schedule: {{cron: "0 6 * * *", timezone: UTC, run: next_missing_partition}}
steps:
  day:
    uses: data.sql
    with:
      query: "select cast($day as date) as day, range as n from range(24)"
      params: {{day: "${{{{ partition.date }}}}"}}
    retry: {{attempts: 3, delay: 1s, backoff: exponential, jitter: full}}
  clean:
    uses: data.sql
    needs: [day]
    with: {{query: "select day, n from day where n > 0"}}
    produces: {name}/clean
    checks: [{{rows: {{min: 1}}}}, {{not_null: [day]}}]
    timeout: 10m
""",
}


def default_folder() -> Path:
    """The folder of workflow files here; raises SetupError where there is none."""
    for folder in _FOLDERS:
        if Path(folder).is_dir():
            return Path(folder)
    raise SetupError(
        f"There is no folder of workflows here (looked for {' and '.join(_FOLDERS)}).",
        fix="Name files or a folder, or change to the project's folder.",
    )


@click.command()
@click.argument("name")
@click.option("--template", type=click.Choice(sorted(_TEMPLATES)), default="minimal", show_default=True)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where to write it.")
@json_option
def new(name: str, template: str, folder: Path | None, as_json: bool) -> None:
    """Write a new workflow file NAME.yaml that runs as it is."""
    text = _TEMPLATES[template].format(name=name)
    target = (folder or default_folder()) / f"{name}.yaml"
    load_text(text, file=str(target), kinds=discover().params())  # a bad NAME is told here, before anything is written
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise SetupError(f"{target} exists already.", fix="Choose another name.") from None
    answer(
        {"file": target, "workflow": name, "template": template},
        as_json,
        f"wrote {target}\nnext: workflows check {target}; workflows run {name}",
    )


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@json_option
def check(paths: tuple[Path, ...], as_json: bool) -> None:
    """Check workflow files: every mistake of every file, with its place and what to do.

    PATHS are files or folders; left out, the project's folder of workflows. Nothing is run and nothing is written, so what only
    a run can know (a table's columns, a function's arguments, a secret's value) is not looked at.
    """
    kinds = discover()
    good, problems = _look(paths or (default_folder(),), kinds)
    compiled = [compile_workflow(workflow, kinds, Allow(), file=str(path)) for path, workflow in good]
    problems += [problem for _, problem in clashes(compiled) if problem not in problems]
    broken = [{"name": plugin.name, "reason": plugin.reason} for plugin in kinds.broken]
    found = [
        {"workflow": workflow.workflow, "file": path, "digest": digest(workflow), "steps": len(workflow.steps)}
        for path, workflow in good
    ]
    lines = [f"ok  {row['workflow']}  {row['steps']} steps  {row['file']}" for row in found]
    lines += [f"plugin '{row['name']}' is left out: {row['reason']}" for row in broken]
    lines += [str(problem) for problem in problems]
    lines += [_closing(len(found), len(problems))]
    value = {"workflows": found, "problems": [vars(problem) for problem in problems], "broken_plugins": broken}
    answer(value, as_json, "\n".join(lines))
    if problems:
        raise click.exceptions.Exit(1)


def _look(paths: tuple[Path, ...], kinds: StepKinds) -> tuple[list[tuple[Path, Workflow]], list[Problem]]:
    good: list[tuple[Path, Workflow]] = []
    problems: list[Problem] = []
    for path in paths:
        if path.is_dir():
            loaded = load_folder(path, kinds.params())
            good += loaded.workflows
            problems += loaded.problems
        elif path.is_file():
            try:
                good.append((path, load(path, kinds.params())))
            except SpecError as error:
                problems += error.problems
        else:
            raise SetupError(f"There is no file or folder {path}.", fix="Check the path.")
    return good, problems


def _closing(good: int, problems: int) -> str:
    if good + problems == 0:
        return "no workflow files found"
    files = f"{good} workflow{'s' if good != 1 else ''} ok"
    return files if not problems else f"{files}, {problems} problem{'s' if problems != 1 else ''}"
