"""How does a workflow tell people? One message through apprise, which speaks to more than a hundred services."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field

from workflows_pkg.errors import CodeProblem, MissingExtra, PeerUnavailable
from workflows_pkg.steps.contract import FromSecret, Parameters, StepContext, StepKind, StepValue

_SPEAKING_OF_ADDRESSES = ("apprise", "urllib3.connectionpool")
"""Loggers that write the address, and with it the token, of where a message goes."""


class Notify(Parameters):
    """Parameters of the step kind `communication.notify`."""

    to: Annotated[str, FromSecret()] = Field(
        description="Where to: an apprise address, which holds a token, so it comes as ${{ secrets.name }}.",
        min_length=1,
        repr=False,
    )
    text: str = Field(description="The message.", min_length=1, max_length=30_000)
    title: str = Field("", description="Its title, for services that show one.", max_length=250)


def run(context: StepContext, params: Notify) -> StepValue:
    """`{"delivered": true}` once the service has taken the message."""
    try:
        import apprise
    except ImportError:
        raise MissingExtra("communication.notify", "notify") from None
    with _without_logs_of(*_SPEAKING_OF_ADDRESSES):
        sender = apprise.Apprise(asset=apprise.AppriseAsset(app_id="Agentic Workflows"))
        if not sender.add(params.to):
            raise CodeProblem(
                "The address in 'to' is none that apprise understands.",
                fix="Check the secret: an address looks like slack://token/#channel or json://host/path.",
            )
        context.used("calls", 1)
        try:
            delivered = sender.notify(body=params.text, title=params.title)
        except Exception as error:  # noqa: BLE001 - a hundred services' code runs here
            # Without the cause: its text may hold the address.
            raise PeerUnavailable(f"The message could not be delivered ({type(error).__name__}).", fix=_RETRY) from None
    if not delivered:
        raise PeerUnavailable("The message could not be delivered.", fix=_RETRY)
    context.log("message delivered")
    return {"delivered": True}


_RETRY = "Check that the service is up and that the address in the secret is still valid."


@contextmanager
def _without_logs_of(*names: str) -> Generator[None]:
    def nothing(record: logging.LogRecord) -> bool:
        # Lines of other threads as well: apprise delivers in threads of its own, which cannot be told from them.
        return False

    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(nothing)


NOTIFY = StepKind(
    name="communication.notify",
    summary="Sends a message to people through apprise: chat, e-mail, telephone and a hundred other services.",
    params=Notify,
    run=run,
    example={"to": "${{ secrets.team_chat }}", "title": "Flights", "text": "The daily report is ready."},
    extra="notify",
)
