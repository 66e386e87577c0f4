"""What all spec models share: strict, closed, immutable; and the constrained types with their units and ranges."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """A part of the spec. Unknown fields are refused, types are not converted, values never change.

    A default that is a model is written ``Part.model_construct()``: a plain call would build a validator of its own for
    it when the module is imported, although the whole experiment's validates it too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
FLAG = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
VERSION = r"^[0-9]+(\.[0-9]+)+([-.+]?[A-Za-z0-9.]+)?$"
IPV4 = r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$"
REVISION = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"
REQUIREMENT = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9.+!_-]+$"
IMAGE = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"
TOOL = r"^[A-Za-z_][A-Za-z0-9_-]*$"
PATTERNS = {
    FLAG: "not a flag's name: lower-case words joined by -, without leading dashes",
    LABEL: 'only lower-case letters, digits and "-", beginning and ending with a letter or digit',
    IMPORT_PATH: "not of the form package.module:Class",
    VERSION: "not an exact version such as 2.1.197",
    r"\.parquet$": "not a .parquet file",
    IPV4: "not an IPv4 address",
    REVISION: "not a commit, tag or branch by its name",
    REQUIREMENT: "not of the form NAME==VERSION",
    IMAGE: "not the name of an image",
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$": "not the name of a CSI driver, such as ru.yandex.s3.csi",
    TOOL: 'not the name of a tool: letters, digits, "_" and "-"',
}
"""What a value that does not match is told."""
Name = Annotated[str, Field(pattern=LABEL, max_length=63)]
"""RFC 1123 label: lower-case letters, digits and "-", at most 63."""
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Count = Annotated[int, Field(ge=1, le=1 << 31)]
Whole = Annotated[int, Field(ge=0, le=1 << 31)]
ToolCalls = Literal["compact", "glm45", "hermes", "llama3_json", "openai", "qwen3_coder"]
"""Formats in which models write tool calls."""
Seed = Annotated[int, Field(ge=0, lt=1 << 31)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A fraction of a whole, 0 to 1."""
Positive = Annotated[float, Field(gt=0.0, le=1e12)]
NonNegative = Annotated[float, Field(ge=0.0, le=1e12)]
LearningRate = Annotated[float, Field(gt=0.0, le=10.0)]
ImportPath = Annotated[str, Field(pattern=IMPORT_PATH)]
"""``package.module:Class``"""
