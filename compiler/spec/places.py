"""Forms of the places that a cluster's owner names: folders of a machine, and buckets."""

from typing import Annotated

from pydantic import Field

from runtime.config.base import PATTERNS

ABSOLUTE = r"^(/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)+/?$"
BUCKET = r"^s3://[a-z0-9][-a-z0-9.]{1,61}[a-z0-9](/[-A-Za-z0-9._/]*)?$"
PATTERNS.update(
    {
        ABSOLUTE: "not the absolute path of a folder below / without ..",
        BUCKET: "not of the form s3://BUCKET/PATH",
    }
)
AbsolutePath = Annotated[str, Field(pattern=ABSOLUTE, max_length=255)]
Bucket = Annotated[str, Field(pattern=BUCKET, max_length=512)]
