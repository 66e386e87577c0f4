"""What a manifest says an image is made of: its configuration and its layers, by digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime.errors import ImageError
from runtime.oci.reference import DIGEST

MAX_CONFIG = 8 << 20


@dataclass(frozen=True)
class Descriptor:
    digest: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """Of one platform. ``digest``: of the manifest itself."""

    digest: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


def read_manifest(name: str, digest: str, found: dict[str, Any]) -> Manifest:
    """Raises ``ImageError`` for what is no manifest of version 2."""
    try:
        config, *layers = [
            Descriptor(str(one["digest"]), int(one["size"])) for one in (found["config"], *found["layers"])
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ImageError(f"image {name}: its manifest is of no known kind ({error})", fix="push it anew") from error
    if not all(DIGEST.fullmatch(one.digest) and one.size >= 0 for one in (config, *layers)):
        raise ImageError(f"image {name}: its manifest has a digest that is none of sha256", fix="push it anew")
    if config.size > MAX_CONFIG:
        raise ImageError(f"image {name}: its configuration is longer than {MAX_CONFIG >> 20} MiB", fix="push it anew")
    return Manifest(digest, config, tuple(layers))
