"""What a manifest says an image is made of: its configuration and its layers, by digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.errors import ImageError
from runtime.oci.reference import DIGEST, Reference

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


_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")


def of_platform(reference: Reference, index: Mapping[str, Any], architecture: str) -> str:
    """The digest of what an index has for Linux on ``architecture``: what asks for no newer processors before what
    does, and what says no platform where nothing else is there. Raises ``ImageError``."""
    listed = index.get("manifests")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    there, fits = [], []
    for entry in entries:
        platform = entry.get("platform")
        said = platform if isinstance(platform, dict) else {}
        name = f"{said.get('os', '?')}/{said.get('architecture', '?')}"
        there.append(name)
        alone = platform is None and len(entries) == 1
        if (name == f"linux/{architecture}" or alone) and DIGEST.fullmatch(digest := str(entry.get("digest", ""))):
            fits.append((said.get("variant") not in (None, "", "v8", "v1"), digest))
    if fits:
        return min(fits, key=lambda one: one[0])[1]
    names = ", ".join(dict.fromkeys(there)) or "nothing"
    raise ImageError(
        f"image {reference}: none for linux/{architecture}, only {names}",
        fix=f"name an image that was made for {architecture} too",
    )


def read_manifest(name: str, digest: str, found: dict[str, Any]) -> Manifest:
    """Raises ``ImageError`` for what is no manifest of version 2, and for what is stored in registries besides images
    (charts, signatures)."""
    if found.get("schemaVersion") == 1:
        why = "its manifest is of Docker's schema 1, which engines have given up"
        raise ImageError(f"image {name}: {why}", fix="pull and push it with a present engine")
    kind = found["config"].get("mediaType") if isinstance(found.get("config"), dict) else None
    if isinstance(kind, str) and kind not in _CONFIGS:
        raise ImageError(f"image {name}: it is none, but something of the kind {kind}", fix="name an image")
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
