"""The word that a run's inference servers want to hear from whoever calls them: of each start of the trainer, for this
user's eyes. Knows a file only."""

from __future__ import annotations

import secrets
from pathlib import Path

KEY = "key"
"""File below ``RunPaths.engines``."""


def make_key(engines: Path) -> None:
    """A new one."""
    engines.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = engines / KEY
    key.touch(mode=0o600)
    key.write_text(secrets.token_urlsafe(32), encoding="ascii")


def read_key(engines: Path) -> str:
    return (engines / KEY).read_text(encoding="ascii")
