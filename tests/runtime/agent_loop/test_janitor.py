"""What a worker leaves on its machine when it is killed is removed, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from runtime.processes import MARK, reap, start_time
from runtime.run_paths import WORKER

WORKER_PROGRAM = """
import subprocess, sys, time
from pathlib import Path
from runtime.agent_loop.janitor import Janitor
from runtime.sandboxes.state import OwnerState
run, state = Path(sys.argv[1]), Path(sys.argv[2])
janitor = Janitor(run, worker="1.0", state=state)
owner = OwnerState(state)
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(left.pid, janitor._process.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_worker_leaves_nothing_and_its_neighbour_everything(tmp_path: Path) -> None:
    run, state = tmp_path / "run", tmp_path / "run" / "state" / "1.0"
    environment = {**os.environ, MARK: str(run)}
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    neighbour = subprocess.Popen(sleep, env={**environment, WORKER: "0.1"})
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER_PROGRAM, str(run), str(state)],
        env={**environment, WORKER: "1.0"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stdout is not None
        left, janitor = map(int, worker.stdout.readline().split())
        assert list(state.glob("owner-*")) and start_time(left) is not None
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        while start_time(janitor) is not None:
            time.sleep(0.02)
        assert start_time(left) is None and not state.exists()
        assert neighbour.poll() is None
    finally:
        reap(run)
        neighbour.wait()
        worker.stdout.close()  # type: ignore[union-attr]
