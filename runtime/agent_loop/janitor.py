"""Clears up behind an agent-loop worker on its machine, however it ended: a small process that waits for its death.

The launcher of a run clears up on its own machine alone, and Ray ends the processes that it has started, not theirs.
``python -m runtime.agent_loop.janitor RUN WORKER STATE``: waits until its standard input is closed, which nobody but
the dead can keep from happening; then ends every process of that worker, and removes its sandboxes' traces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.config import load_runtime_config
from runtime.errors import UserError
from runtime.processes import reap
from runtime.run_paths import WORKER, RunPaths
from runtime.sandboxes import clear_up


class Janitor:
    """The worker's end of it. ``state``: the folder of its sandboxes."""

    def __init__(self, run: Path, *, worker: str, state: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "runtime.agent_loop.janitor", str(run), worker, str(state)],
            cwd="/",
            # Not of the worker: it must outlive it.
            env={name: value for name, value in os.environ.items() if name != WORKER},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        """The worker has ended in order; what it left is removed all the same."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def clear_sandboxes(run: Path, states: Sequence[Path]) -> bool:
    """What owners below these folders of the run left, here and in its engine; see ``clear_up``."""
    try:
        environment = load_runtime_config(RunPaths(run).runtime_json).environment
    except UserError:
        environment = None
    return clear_up(environment, states)


def main(run: str, worker: str, state: str) -> None:
    sys.stdin.buffer.read()
    reap(Path(run), also={WORKER: worker})
    if clear_sandboxes(Path(run), [Path(state)]):
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
