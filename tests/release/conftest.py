"""A workflow, and a store of its versions with a clock that the test moves."""

from datetime import UTC, datetime, timedelta

import pytest

from workflows_pkg.release.versions import VersionStore
from workflows_pkg.spec.model import Workflow


def _workflow(**score):
    return Workflow.model_validate(
        {
            "workflow": "daily",
            "owner": "data-team",
            "steps": {
                "load": {"uses": "data.read_table", "with": {"source": "flights", "where": {"day": "ü"}}},
                "score": {
                    "uses": "python",
                    "needs": ["load"],
                    "retry": {"attempts": 3, "delay": "1s"},
                    "timeout": "30s",
                    **score,
                },
                "announce": {"uses": "communication.notify", "needs": ["score"]},
            },
        }
    )


class Clock:
    def __init__(self):
        self.now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def workflow():
    """Makes the workflow with other fields of its step 'score'."""
    return _workflow


@pytest.fixture
def store(tmp_path):
    return VersionStore(tmp_path / "home", clock=Clock())
