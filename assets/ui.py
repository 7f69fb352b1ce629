"""`make ui`: python -m assets.ui --home .home. The Dagster UI on the example instance, among the neighbours that its runs need."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from assets.data import prepare
from assets.neighbours.running import ROOT, backup, neighbours
from workflows_pkg.errors import WorkflowsError
from workflows_pkg.orchestration.instance import create_instance
from workflows_pkg.orchestration.services import serve


def main() -> None:
    """Serves until Ctrl-C. A folder that is not there yet becomes a new instance. Exit code 1 with one sentence where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m assets.ui", description=main.__doc__)
    parser.add_argument("--home", type=Path, default=Path(".home"), help="folder of the instance (default: %(default)s)")
    parser.add_argument("--port", type=int, default=3000, help="port of the webserver, on 127.0.0.1 (default: %(default)s)")
    given = parser.parse_args()
    home = given.home.resolve()
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
    try:
        create_instance(home)
        if not (home / "history").is_dir():
            say("Nothing has run here yet. Start a run in the UI, or end this with Ctrl-C and see it all done: make run")
        prepare(home / "data")
        with neighbours(home, home / "data"), backup(home, home / "data"):
            serve(home, ROOT, port=given.port, say=say)
    except WorkflowsError as error:
        sys.exit(f"The UI cannot start: {error}")
    except KeyboardInterrupt:
        say("Ended.")


def say(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
