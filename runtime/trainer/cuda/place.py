"""Where weights are handed over. verl names a socket in ``/tmp`` by Ray's job, and every run's own Ray calls its job
the first: two runs of one machine would meet there."""

from __future__ import annotations

import os

from runtime.trainer import layout


def in_run(handle: str) -> str:
    """verl's ``ipc:///tmp/NAME`` in the folder of this run's Ray."""
    return handle.replace("ipc:///tmp/", f"ipc://{os.environ[layout.RAY_DIR]}/", 1)
