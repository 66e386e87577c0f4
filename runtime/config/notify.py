"""Who is told when a run ends: a command of the machine that runs it, or a web address."""

from typing import Annotated, Literal

from pydantic import Field

from runtime.config.base import ENVIRONMENT_NAME, WEB_ADDRESS, Model, Text

Occasion = Literal["succeeded", "failed", "stopped"]
"""States in which a run ends; ``stopped``: by a person, or by a machine that was taken away in order."""


class Notification(Model):
    """What both have."""

    on: Annotated[tuple[Occasion, ...], Field(min_length=1)] = ("succeeded", "failed")
    """When it is sent."""
    timeout_sec: Annotated[float, Field(gt=0.0, le=600.0)] = 20.0
    """How long the run's end waits for it."""


class CommandNotification(Notification):
    """A program that is run where the run ends. It gets the message as JSON on stdin."""

    type: Literal["command"] = "command"
    argv: Annotated[tuple[Text, ...], Field(min_length=1)]
    """The program and its arguments; no shell reads them."""


class WebhookNotification(Notification):
    """A web address that gets the message by ``POST``, as JSON with the words for people in ``text``: what Slack,
    Mattermost and their like take."""

    type: Literal["webhook"] = "webhook"
    url: Annotated[str, Field(pattern=WEB_ADDRESS, max_length=2048)] | None = None
    """The address, where it is no secret."""
    url_variable: Annotated[str, Field(pattern=ENVIRONMENT_NAME, max_length=128)] | None = None
    """The variable that holds the address, where whoever knows it may post: one of ``secrets``."""


Notify = Annotated[CommandNotification | WebhookNotification, Field(discriminator="type")]
