"""Equal work on a task is graded once: who leaves the same files gets the verdict that the first one got.

In a group many trajectories end alike, with nothing done or with the one right repair. What counts as equal is what the
verifier would write over the pristine repository (``artifacts.select``), and nothing else that an agent did can reach
its sandbox. A verifier that could not decide is asked again. Tests that pass by chance give equal work one verdict
instead of several. Knows no sandboxes.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runtime.grading.artifacts import Selection, select
from runtime.grading.base import Verdict, Verifier
from runtime.sandboxes.entries import Entry, marked

if TYPE_CHECKING:
    from runtime.task import Task

MAX_VERDICTS: Final = 4096
"""Kept at once, the least lately used goes first; with reports of some kilobytes each."""


class ReusingVerifier:
    """Implements ``Verifier`` on top of another one, which it closes."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._kept: OrderedDict[tuple[Path, bytes], Verdict] = OrderedDict()
        self._judging: dict[tuple[Path, bytes], asyncio.Lock] = {}

    async def grade(self, task: Task, artifacts: Mapping[str, Entry]) -> Verdict:
        """As ``Verifier.grade``; ``Verdict.reused`` where equal work had been graded. Raises what the other raises."""
        start = time.monotonic()
        key = (task.path, digest(select(task, artifacts)))
        lock = self._judging.setdefault(key, asyncio.Lock())
        try:
            async with lock:  # equal work at the same time waits for the first verdict
                kept = self._kept.get(key)
                if kept is not None:
                    self._kept.move_to_end(key)
                    return replace(kept, seconds=time.monotonic() - start, reused=True)
                verdict = await self._verifier.grade(task, artifacts)
                self._kept[key] = verdict
                if len(self._kept) > MAX_VERDICTS:
                    self._kept.popitem(last=False)
                return verdict
        finally:
            if not lock.locked():
                self._judging.pop(key, None)

    async def close(self) -> None:
        await self._verifier.close()


def digest(selection: Selection) -> bytes:
    """Of all that the verifier takes over from an agent: names and contents, or why nothing is taken."""
    text = hashlib.sha256((selection.problem or "").encode())
    for name, entry in sorted(selection.files.items(), key=lambda item: item[0]):
        encoded = name.encode(errors="surrogateescape")
        kind, content = marked(entry)
        text.update(b"%d %d %s " % (len(encoded), len(content), kind.encode()) + encoded + content)
    return text.digest()
