"""Forms of the places that a cluster's owner names: folders of a machine, and buckets."""

from typing import Annotated

from pydantic import Field

from runtime.config.base import PATTERNS

ABSOLUTE = r"^(/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)+/?$"
_IN_IT = r"(/[-A-Za-z0-9._/]*)?"
BUCKET = (
    rf"^((s3|gs|r2)://[a-z0-9][-a-z0-9.]{{1,61}}[a-z0-9]{_IN_IT}"
    rf"|https://[a-z0-9]{{3,24}}\.blob\.core\.windows\.net/[a-z0-9][-a-z0-9]{{1,61}}[a-z0-9]{_IN_IT})$"
)
PATTERNS.update(
    {
        ABSOLUTE: "not the absolute path of a folder below / without ..",
        BUCKET: "not of the form s3://BUCKET/PATH, gs://, r2:// or https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH",
    }
)
AbsolutePath = Annotated[str, Field(pattern=ABSOLUTE, max_length=255)]
Bucket = Annotated[str, Field(pattern=BUCKET, max_length=512)]
