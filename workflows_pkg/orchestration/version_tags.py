"""Which run tags say what ran, and by when it should have? A module of its own, because processes made for one step load it."""

VERSION_TAG = "workflows/version"
WORKFLOW_TAG, DIGEST_TAG, OWNER_TAG = (f".dagster/workflows_{name}" for name in ("workflow", "digest", "owner"))
"""The prefix is Dagster's for tags that its pages do not show, where five more lines a run would crowd the list."""

BUDGET_TAG = ".dagster/workflows_budget_usd"
"""What a run may cost in USD. Any job may say so with the tag `workflows/budget_usd`."""

DEADLINE_TAG = ".dagster/workflows_deadline"
"""By when a run should have ended, as `spec.deadlines` writes it. Any job may say so with the tag `workflows/deadline`."""
