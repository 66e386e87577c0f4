"""Which images of a store may go, and in what order. Removes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import MachineError
from runtime.oci.types import Image


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
