"""Which images of a store may go, and in what order; and what goes at any time, for nobody will come back to it."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MachineError
from runtime.oci.types import Image

_LONG_AGO_SEC = 86400.0


class NoRoom(MachineError):
    """The budget or the disk is used up by what may not go."""


@dataclass(frozen=True)
class Listed:
    """One image of the store. ``own_bytes``: of layers that no other image has; ``used``: seconds since the epoch."""

    image: Image
    own_bytes: int
    used: float
    in_use: bool


def dispensable_first(listed: Sequence[Listed], coming: Sequence[str]) -> list[Listed]:
    places: dict[str, int] = {}
    for place, digest in enumerate(coming):
        places.setdefault(digest, place)
    return sorted(listed, key=lambda one: (-places.get(one.image.digest, len(coming)), one.used))


def loose_bytes(listed: Sequence[Listed], spare: Sequence[str]) -> int:
    """At least what would be free without those that are not in use, nor to be spared: what each of them alone has."""
    return sum(one.own_bytes for one in listed if not one.in_use and one.image.digest not in spare)


def remove_left(root: Path, *, builds: bool) -> None:
    """Remove what processes have left in a store that were killed. Only for who keeps others from fetching; builds:
    that nobody builds either."""
    for left in (*root.glob("layers/.unpack-*"), *root.glob("layers/.doomed-*"), root / "blobs"):
        shutil.rmtree(left, ignore_errors=True)
    for left in root.glob(".build-*") if builds else ():
        shutil.rmtree(left, ignore_errors=True)
    for left in (*root.glob(".config-*"), *root.glob("trees/.*")):  # made without a lock, and in less time
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - _LONG_AGO_SEC:
                shutil.rmtree(left, ignore_errors=True)
