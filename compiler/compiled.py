"""What a compilation hands back: a bundle or a sweep, and the version of the compiler that made it.

Plain data. Knows neither how it is made nor how it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.errors import Problem

VERSION = "0.1.0"


@dataclass(frozen=True)
class Bundle:
    """A compiled experiment. ``files`` maps names in the bundle to text, the lock among them; ``folder`` is where it
    was written, if it was."""

    name: str
    target: str
    files: Mapping[str, str]
    warnings: tuple[Problem, ...]
    folder: Path | None = None


@dataclass(frozen=True)
class Sweep:
    """A compiled sweep. ``points`` are the names of its bundles, folders below ``folder`` when they were written;
    ``summary`` is its page for reviewers."""

    name: str
    target: str
    points: tuple[str, ...]
    warnings: tuple[Problem, ...]
    summary: str
    folder: Path | None = None
