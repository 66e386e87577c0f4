"""What the models of the spec and of ``runtime.json`` share: strict, closed, immutable; and the constrained types with
their units and ranges."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Absent(Exception):
    """A field was asked for that has no sound value (``compiler.partial``)."""


class Model(BaseModel):
    """A part of the spec or of ``runtime.json``. Unknown fields are refused, types are not converted, values never
    change.

    A default that is a model is written ``Part.model_construct()``: a plain call would build a validator of its own for
    it when the module is imported, although the whole experiment's validates it too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)

    def knows(self, name: str) -> bool:
        """Whether the field has a sound value: always, but for what ``compiler.partial`` makes of a wrong spec."""
        return name in self.__dict__

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in type(self).model_fields:
                raise Absent(name)
            return super().__getattr__(name)


LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
FLAG = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
VERSION = r"^[0-9]+(\.[0-9]+)+([-.+]?[A-Za-z0-9.]+)?$"
_OCTET = r"(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
IPV4 = rf"^{_OCTET}(\.{_OCTET}){{3}}$"
PORT = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
"""1 to 65535."""
TEXT = r"^[^\x00-\x1f\x7f]*$"
_WORD = r"[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?"
HOST = rf"^({_WORD}(\.{_WORD})*\.?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$"
"""A name, an IPv4 or an IPv6 address without brackets."""
ADDRESS = rf"^[A-Za-z0-9.:\[\]-]+:{PORT}$"
WEB_ADDRESS = r"^https?://[^\s\x00-\x1f\x7f]+$"
_DOMAIN = r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?"
_REGISTRY = rf"((localhost|{_DOMAIN}(\.{_DOMAIN})+)(:[0-9]+)?|{_DOMAIN}:[0-9]+)"
REGISTRY = rf"^{_REGISTRY}$"
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
IMAGE = (
    rf"^({_REGISTRY}/)?{_PART}(/{_PART})*"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)
"""As container engines read it; Kubernetes takes any text, and no node can pull it then."""
ENVIRONMENT_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
PARQUET = r"^[^\x00-\x1f\x7f]*\.parquet$"
REVISION = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"
REQUIREMENT = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9.+!_-]+$"
TOOL = r"^[A-Za-z_][A-Za-z0-9_-]*$"
SHA256 = r"^[0-9a-f]{64}$"
DISTRIBUTION = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
DISTRIBUTION_VERSION = r"^[A-Za-z0-9.+!_-]+$"
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"^{_LABEL}(\.{_LABEL})*$"
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
QUALIFIED = rf"^({_LABEL}(\.{_LABEL})*/)?{_NAME}$"
EXTENDED = rf"^{_LABEL}(\.{_LABEL})*/{_NAME}$"
CONFIG_KEY = r"^\.?[-_A-Za-z0-9][-._A-Za-z0-9]*$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
PATTERNS = {
    FLAG: "not a flag's name: lower-case words joined by -, without leading dashes",
    LABEL: 'only lower-case letters, digits and "-", beginning and ending with a letter or digit',
    IMPORT_PATH: "not of the form package.module:Class",
    VERSION: "not an exact version such as 2.1.197",
    PARQUET: "not a .parquet file",
    IPV4: "not an IPv4 address",
    REVISION: "not a commit, tag or branch by its name",
    REQUIREMENT: "not of the form NAME==VERSION",
    TOOL: 'not the name of a tool: letters, digits, "_" and "-"',
    TEXT: "holds a control character, such as a line break",
    HOST: "not the name or address of a machine",
    ADDRESS: "not of the form HOST:PORT",
    WEB_ADDRESS: "not an address that begins with https:// or http://",
    IMAGE: "not the name of a container image: REGISTRY/NAME:TAG, or with @sha256:DIGEST; NAME is in lower case",
    REGISTRY: "not the name of a registry, such as docker.io or mirror.example.com:5000",
    SUBDOMAIN: 'only lower-case letters, digits, "-" and ".", each part beginning and ending with a letter or digit',
    CONFIG_KEY: 'not a key of a Secret: letters, digits, "-", "_" and ".", not beginning with ".."',
    EXTENDED: "not the name of a device plug-in's resource: DOMAIN/NAME",
    ENVIRONMENT_NAME: 'not the name of an environment variable: letters, digits and "_"',
    SHA256: "not a sha256 digest of 64 hexadecimal digits",
    DISTRIBUTION: "not the name of a package",
    DISTRIBUTION_VERSION: "not a version of a package",
    QUALIFIED: "not the name of a label or resource: [DOMAIN/]NAME, at most 63 characters after the /",
    LABEL_VALUE: "not the value of a label: at most 63 letters, digits, '-', '_' and '.'",
}
"""What a value that does not match is told."""
Name = Annotated[str, Field(pattern=LABEL, max_length=63)]
"""RFC 1123 label: lower-case letters, digits and "-", at most 63."""
ObjectName = Annotated[str, Field(pattern=SUBDOMAIN, max_length=253)]
"""Name of an object of Kubernetes that somebody else has made: RFC 1123 subdomain."""
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=TEXT)]
Host = Annotated[str, Field(max_length=253, pattern=HOST)]
Image = Annotated[str, Field(max_length=512, pattern=IMAGE)]
"""Name of a container image."""
Count = Annotated[int, Field(ge=1, le=1 << 31)]
Whole = Annotated[int, Field(ge=0, le=1 << 31)]
ToolCalls = Literal["compact", "glm45", "hermes", "llama3_json", "openai", "qwen3_coder"]
"""Formats in which models write tool calls."""
Seed = Annotated[int, Field(ge=0, lt=1 << 31)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A fraction of a whole, 0 to 1."""
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
"""How much of the past a running mean keeps."""
Positive = Annotated[float, Field(gt=0.0, le=1e12)]
NonNegative = Annotated[float, Field(ge=0.0, le=1e12)]
LearningRate = Annotated[float, Field(gt=0.0, le=10.0)]
ImportPath = Annotated[str, Field(pattern=IMPORT_PATH)]
"""``package.module:Class``"""
LabelKey = Annotated[str, Field(pattern=QUALIFIED, max_length=317)]
"""A Kubernetes label or resource name: ``[domain/]name``, the name at most 63 characters."""
ConfigKey = Annotated[str, Field(pattern=CONFIG_KEY, max_length=253)]
"""Key in a Secret or ConfigMap."""
ResourceName = Annotated[str, Field(pattern=EXTENDED, max_length=317)]
"""An extended resource of Kubernetes."""
Registry = Annotated[str, Field(pattern=REGISTRY, max_length=253)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]
