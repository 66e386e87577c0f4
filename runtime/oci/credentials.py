"""Passwords and certificates of registries, from where Docker and Podman keep them; nothing is written or shown."""

from __future__ import annotations

import base64
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import UserError
from runtime.oci.reference import HUB

CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def _files() -> Iterator[Path]:
    if "REGISTRY_AUTH_FILE" in os.environ:
        yield Path(os.environ["REGISTRY_AUTH_FILE"])
    if "XDG_RUNTIME_DIR" in os.environ:
        yield Path(os.environ["XDG_RUNTIME_DIR"]) / "containers" / "auth.json"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "containers" / "auth.json"
    yield Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def credentials(registry: str) -> tuple[str, str] | None:
    """User and password for a registry, from the first file that has them. Credential helpers are not started."""
    names: tuple[str, ...] = (registry, f"https://{registry}", f"https://{registry}/v2/")
    if registry == HUB:
        names = ("https://index.docker.io/v1/", "docker.io", "index.docker.io", *names)
    for path in _files():
        try:
            kept = json.loads(path.read_bytes()).get("auths", {})
        except (OSError, ValueError, AttributeError):
            continue
        for name in names:
            entry = kept.get(name) if isinstance(kept, dict) else None
            if isinstance(entry, dict) and entry.get("auth"):
                try:
                    user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
                except ValueError as error:
                    raise UserError(f"{path}: auths.{name}.auth: not base64 of user:password; log in anew") from error
                return user, password
    return None


def trust(registry: str) -> ssl.SSLContext:
    """The system's certificate authorities, those of ``SSL_CERT_FILE``, and those of the registry's own folder."""
    context = ssl.create_default_context()
    for folder in CERTIFICATES:
        for path in sorted((Path(folder) / registry).glob("*.crt")):
            context.load_verify_locations(cafile=path)
    return context
