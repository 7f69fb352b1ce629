"""Where can this project be made to die on purpose, so that a test can look at what is left?

`WORKFLOWS_CRASH_AT=name` ends the process at `crash_point("name")` without any clean-up, as `os._exit` does; `name:kill`
ends it by SIGKILL. Unset, a crash point costs one look into the environment.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "WORKFLOWS_CRASH_AT"

EXIT_CODE = 70
"""Exit code of a process that died at a crash point, to tell it from one that failed by itself."""


def crash_point(name: str) -> None:
    """Ends this process here, without clean-up, where the environment names this point."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, mode = wanted.partition(":")
    if point != name:
        return
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(EXIT_CODE)
