"""``--resume auto``: the run that a restarted job means. For jobs that a platform starts again after it lost their
machine, not to undo that a run ended by itself."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from runtime import suggest
from runtime.errors import RunError
from runtime.launch import ledger
from runtime.launch.rundir import FINAL_STATES, RunDirectory, refuse_living

_SAME = ("runtime.json", "verl.yaml")


def unfinished(files: Mapping[str, str], *, runs_dir: Path) -> RunDirectory | None:
    """The newest training run of exactly this bundle if it has not succeeded, ready for ``local.reopen``; else None.
    Raises ``RunError`` when it ended by itself: a job that is started again must not undo that.

    A run that another host left ``running`` is taken over at once: whoever asks for ``auto`` vouches that no two hosts
    run one job at a time, as KubeRay, SkyPilot and Compose do."""
    for entry in reversed(ledger.runs(runs_dir)):
        directory, record = entry.directory, entry.record
        if record.kind != "train" or not _same(directory, files):
            continue
        if record.state == "succeeded":
            return None
        if record.ended_by_itself:
            raise RunError(
                f"{record.exit_cause}\n"
                f"{record.run} ended by itself, so --resume auto does not go on with it; change the spec (its health, "
                f"say) for a new run, or go on all the same: {suggest.on_run('run --resume', directory.path)}"
            )
        if record.state not in FINAL_STATES and not record.here:
            directory.update(host=socket.gethostname(), pid=0, pid_start=0)
        refuse_living(directory)
        return directory
    return None


def _same(directory: RunDirectory, files: Mapping[str, str]) -> bool:
    try:
        return all((directory.bundle / name).read_text(encoding="utf-8") == files[name] for name in _SAME)
    except OSError:
        return False
