"""Names of images: ``[registry/]repository[:tag][@sha256:...]``, as Docker reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

HUB = "registry-1.docker.io"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = re.compile(r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:\d))(?::\d+)?")
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """``registry``: host[:port] as it is asked; ``tag`` is None where a digest says which."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def wanted(self) -> str:
        """What the registry is asked for."""
        return self.digest or self.tag or "latest"

    def by(self, digest: str) -> Reference:
        return replace(self, digest=digest, tag=None)

    def __str__(self) -> str:
        registry = "docker.io" if self.registry == HUB else self.registry
        return f"{registry}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.wanted}")


def mirrored(text: str, mirrors: Mapping[str, str]) -> str:
    """The name under which another machine fetches the image, where the registry has a mirror (registry -> mirror)."""
    reference = parse(text)
    hub = dict.fromkeys(("docker.io", "index.docker.io"), HUB)
    mirror = {hub.get(name, name): one for name, one in mirrors.items()}.get(reference.registry)
    return text if mirror is None else str(replace(reference, registry=mirror))


def parse(text: str) -> Reference:
    """Raises ``ValueError`` saying what is wrong."""
    name, at, digest = text.strip().partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise ValueError(f"image {text!r}: {digest!r} is no digest sha256:<64 hexadecimal digits>")
    first, slash, rest = name.partition("/")
    registry, path = (first, rest) if slash and _HOST.fullmatch(first) else (HUB, name)
    if registry in ("docker.io", "index.docker.io"):
        registry = HUB
    path, colon, tag = path.partition(":")
    if registry == HUB and "/" not in path:
        path = f"library/{path}"
    if not _REPOSITORY.fullmatch(path) or (colon and not _TAG.fullmatch(tag)):
        raise ValueError(f"image {text!r}: not of the form [registry/]repository[:tag][@sha256:digest]")
    return Reference(registry, path, None if digest else (tag or "latest"), digest or None)
