"""Words of long commands on stderr: what they say of their progress, and after half a minute of silence what goes on
and for how long, so that a log shows that they live. Runs have a display of their own
(``runtime/telemetry/progress.py``).

Knows nothing of what a command does.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_SEC = 30.0
_spoke = 0.0
"""When something was said last, on the clock of ``time.monotonic``."""


def say(text: str) -> None:
    """A line of progress."""
    global _spoke
    _spoke = time.monotonic()
    print(text, file=sys.stderr, flush=True)


@contextmanager
def still_there(what: str, so_far: Callable[[], str] = str) -> Iterator[None]:
    """Inside the block a line after each ``QUIET_SEC`` without one: ``what`` goes on, for how long, and ``so_far``."""
    began, over = time.monotonic(), threading.Event()

    def watch() -> None:
        while not over.wait(min(QUIET_SEC, max(0.05, max(_spoke, began) + QUIET_SEC - time.monotonic()))):
            if time.monotonic() - max(_spoke, began) >= QUIET_SEC:
                minutes, seconds = divmod(int(time.monotonic() - began), 60)
                say("  ".join(part for part in (f"{what}, for {minutes}:{seconds:02d}", so_far()) if part))

    thread = threading.Thread(target=watch, name="still there", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)
