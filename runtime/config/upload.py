"""Where a run's record and checkpoints are copied while it goes on."""

from typing import Annotated

from pydantic import Field

from runtime.config.base import PATTERNS, Model

PLACE = (
    r"^((s3|gs)://[a-z0-9][-a-z0-9._]{1,61}[a-z0-9](/[-A-Za-z0-9._/]*)?"
    r"|https://[a-z0-9]{3,24}\.blob\.core\.windows\.net/[a-z0-9][-a-z0-9]{1,61}[a-z0-9](/[-A-Za-z0-9._/]*)?"
    r"|file:///[-A-Za-z0-9._/]*)$"
)
PATTERNS[PLACE] = (
    "not of the form s3://BUCKET/PATH (other services of that API: AWS_ENDPOINT_URL says where), gs://BUCKET/PATH,"
    " https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH or file:///PATH"
)


class Upload(Model):
    """A bucket, or a folder that other machines see, which gets the run's record, metrics and bundle, and its
    checkpoints: the newest, and the one that scored best on the held-out tasks."""

    url: Annotated[str, Field(pattern=PLACE, max_length=512)]
    """Runs lie below it as ``EXPERIMENT/RUN``. Keys come from the environment, as the clouds' own tools read them."""
    every_sec: Annotated[float, Field(ge=1.0, le=86400.0)] = 60.0
    """How often it is looked for something new. Training never waits for it."""
    finish_sec: Annotated[float, Field(ge=0.0, le=86400.0)] = 600.0
    """How long the run's end waits for the rest of it."""
