"""What a run waits for, by name: a file for every wait in progress, read by ``liverl status``.

Every wait has an owner, a name for people and a deadline; whoever waits longer gives up by it. Several processes of one
run write; knows nothing of what they wait for.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from runtime.processes import kernel


@dataclass(frozen=True)
class Wait:
    """One wait in progress. ``since`` is for display alone: deadlines are kept by the monotonic clock of who waits."""

    owner: str
    what: str
    since: float
    deadline_sec: float
    pid: int
    kernel: str = ""
    """Of the machine that ``pid`` belongs to."""

    def words(self, now: float) -> str:
        return f"waiting {max(0.0, now - self.since):.0f} s for {self.what} ({self.owner}; at most {_time(self)})"


@contextmanager
def waiting(folder: Path, *, owner: str, what: str, deadline_sec: float) -> Iterator[None]:
    """Inside the block the wait can be seen. It ends nothing by itself: the deadline is for ``overdue``, or the
    caller's own timeout."""
    path = folder / f"{owner}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
    wait = {"owner": owner, "what": what, "since": time.time(), "deadline_sec": deadline_sec}
    wait |= {"pid": os.getpid(), "kernel": kernel()}
    # A wait that cannot be shown (full disk) is a wait all the same.
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(orjson.dumps(wait))
        partial.replace(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def overdue(what: str, *, owner: str, deadline_sec: float) -> str:
    """What to say when the deadline has passed."""
    return f"WaitedTooLong: {owner} waited {deadline_sec:.0f} s for {what}"


def read_waits(folder: Path) -> list[Wait]:
    """Waits in progress, the oldest first. Those of processes that are gone are left out where they ran on this
    machine; of others nobody here can tell."""
    found = []
    for path in folder.glob("*.json"):
        with suppress(OSError, ValueError, TypeError):
            found.append(Wait(**orjson.loads(path.read_bytes())))
    here = kernel()
    living = (wait for wait in found if wait.kernel not in ("", here) or Path(f"/proc/{wait.pid}").exists())
    return sorted(living, key=lambda wait: wait.since)


def _time(wait: Wait) -> str:
    seconds = wait.deadline_sec
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
