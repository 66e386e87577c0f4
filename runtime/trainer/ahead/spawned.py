"""Lets Python's ``multiprocessing`` start processes through ``claim``."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.spawn
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from runtime.trainer.ahead import claim
from runtime.trainer.ahead.pool import write_script


@contextlib.contextmanager
def spawning(kind: str) -> Iterator[None]:
    """Inside the block what this process spawns is handed to a process of ``kind`` that waits. Nothing changes where
    none can."""
    script = _script(kind)
    if script is None:
        yield
        return
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(str(script))
    try:
        yield
    finally:
        multiprocessing.set_executable(before)


def _script(kind: str) -> Path | None:
    """multiprocessing takes one file, without arguments; None where none can be run, or nobody waits."""
    place = os.environ.get(claim.PLACE)
    try:
        if place is None or os.statvfs(place).f_flag & os.ST_NOEXEC:
            return None
        script = Path(place) / f"{kind}-{uuid.uuid4().hex[:8]}.sh"
        write_script(script, kind=kind)
    except OSError:
        return None
    return script
