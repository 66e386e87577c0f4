"""What a stranger's image says of itself, read with care: its name, its configuration, the digests of its layers.
Raises ``ImageError`` for what cannot be meant; fetches nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import ImageError
from runtime.oci.manifest import Manifest
from runtime.oci.reference import DIGEST, Reference, parse
from runtime.oci.types import MAX_LAYERS


def parsed(text: str) -> Reference:
    try:
        return parse(text)
    except ValueError as error:
        raise ImageError(str(error), fix="correct the image's name in task.toml") from error


def document(name: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ImageError(f"image {name}: its configuration is no JSON: {error}", fix="push it anew") from error
    if not isinstance(found, dict):
        raise ImageError(f"image {name}: its configuration is no table", fix="push it anew")
    return found


def table(name: str, config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise ImageError(f"image {name}: its configuration's {key} is no table", fix="build and push it anew")
    return found


def diff_ids_of(name: str, config: Mapping[str, Any], manifest: Manifest) -> list[str]:
    found = table(name, config, "rootfs").get("diff_ids")
    ids = [str(one) for one in found] if isinstance(found, list) else []
    if len(ids) != len(manifest.layers) or not ids:
        raise ImageError(
            f"image {name}: {len(manifest.layers)} layers, but {len(ids)} digests of them", fix="push it anew"
        )
    if not all(DIGEST.fullmatch(one) for one in ids):  # they become names of folders of this machine
        raise ImageError(f"image {name}: its configuration has a digest that is none of sha256", fix="push it anew")
    if len(set(ids)) > MAX_LAYERS:
        raise ImageError(f"image {name}: more than {MAX_LAYERS} layers", fix="build it with fewer instructions")
    return ids


def check_platform(name: str, config: Mapping[str, Any], architecture: str) -> None:
    """Raises ``ImageError`` for programs of another machine: a tag without an index may be of any."""
    found = str(config.get("os") or "linux"), str(config.get("architecture") or architecture)
    if found != ("linux", architecture):
        raise ImageError(
            f"image {name}: it is for {'/'.join(found)}, and this machine is linux/{architecture}",
            fix=f"name an image that was made for {architecture}",
        )
