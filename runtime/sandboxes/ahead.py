"""Fetches the images of tasks before the steps that want them, one at a time, in the order that the trainer announced.

Where images are kept it leaves to a shelf: this machine's store, or a container engine. It makes way for boxes that
wait, stops where there is no room, and ends with its provider. What cannot be fetched is left to the box that wants it,
which says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.errors import MachineError

log = logging.getLogger(__name__)

LOOK_SEC = 1.0
BUILT = "built:"
"""References of what was built on the trainer's machine begin so: no registry has it."""

Pace = Callable[[int], None]
"""Hears how many bytes have come; may take its time, or raise what ends the fetch."""


@dataclass(frozen=True)
class Wanted:
    """An image that will be wanted. ``bytes``: unpacked, all layers; 0: unknown."""

    digest: str
    reference: str
    bytes: int = 0


@dataclass(frozen=True)
class Announced:
    """now: of tasks that were given out; coming: of those after them, in their order."""

    now: tuple[Wanted, ...] = ()
    coming: tuple[Wanted, ...] = ()


class Shelf(Protocol):
    """Called from one thread."""

    @property
    def busy(self) -> bool:
        """Whether a box waits for an image."""

    def has(self, image: Wanted) -> bool: ...

    def fetch(self, image: Wanted, *, sooner: Sequence[str], pace: Pace) -> bool:
        """False: there is no room for it beside those that are wanted sooner. Raises ``MachineError``."""


class Stopped(Exception):
    """The run ends, or a box waits."""


class FetchAhead:
    """images: so many beyond those of the tasks that were given out; mib_per_sec: bound of the line, None: none."""

    def __init__(
        self, shelf: Shelf, announced: Callable[[], Announced], *, images: int, mib_per_sec: float | None = None
    ) -> None:
        self._shelf, self._announced = shelf, announced
        self._images = images
        self._rate = mib_per_sec * (1 << 20) if mib_per_sec is not None else None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed: set[str] = set()
        self._due = 0.0

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._thread is None and self._images:
            self._thread = threading.Thread(target=self._follow, name="images-ahead", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End; what is being fetched is given up. Blocks for a moment."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_SEC):
            try:
                while self.one():
                    pass
            except Exception:  # whatever happens here must not end a run: boxes fetch what they need
                log.exception("fetching images ahead")

    def one(self) -> bool:
        """Fetch the next image that is not there; False where nothing is to be done now."""
        said = self._announced()
        wanted = [*said.now, *said.coming[: self._images]]
        for place, image in enumerate(wanted):
            if self._stop.is_set() or self._shelf.busy:
                return False
            if image.reference.startswith(BUILT) or image.digest in self._failed or self._shelf.has(image):
                continue
            self._due = time.monotonic()
            try:
                sooner = [one.digest for one in wanted[:place]]
                return self._shelf.fetch(image, sooner=sooner, pace=self._pace)
            except Stopped:
                return False
            except MachineError as error:
                log.warning("image %s: not fetched ahead: %s", image.reference, error)
                self._failed.add(image.digest)
                return True
        return False

    def _pace(self, size: int) -> None:
        if self._stop.is_set() or self._shelf.busy:
            raise Stopped
        if self._rate is not None:
            self._due += size / self._rate
            while (left := self._due - time.monotonic()) > 0:
                if self._stop.wait(min(left, 0.2)) or self._shelf.busy:
                    raise Stopped
