"""``--resume auto``: the run that a restarted job means. For jobs that a platform starts again after it lost their
machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import UserError
from runtime.launch import ledger
from runtime.launch.rundir import FINAL_STATES, RunDirectory

_SAME = ("runtime.json", "verl.yaml")


def unfinished(files: Mapping[str, str], *, runs_dir: Path) -> RunDirectory | None:
    """The newest training run of exactly this bundle if it has not succeeded, ready for ``local.reopen``; else None.

    A run that another host left ``running`` is taken over: whoever asks for ``auto`` vouches that no two hosts run one
    job at a time, as KubeRay, SkyPilot and Compose do."""
    for entry in reversed(ledger.runs(runs_dir)):
        directory, record = entry.directory, entry.record
        if record.kind != "train" or not _same(directory, files):
            continue
        if record.state == "succeeded":
            return None
        if record.state not in FINAL_STATES and record.host != socket.gethostname():
            directory.update(host=socket.gethostname(), pid=0, pid_start=0)
        elif record.alive:
            raise UserError(f"{record.run}: still running (pid {record.pid}); `liverl stop {record.run}` ends it")
        return directory
    return None


def _same(directory: RunDirectory, files: Mapping[str, str]) -> bool:
    try:
        return all((directory.bundle / name).read_text(encoding="utf-8") == files[name] for name in _SAME)
    except OSError:
        return False
