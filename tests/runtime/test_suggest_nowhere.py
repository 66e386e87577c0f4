"""Commands that are suggested by a process whose folder was removed under it, as Ray does with a job's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from runtime import suggest
os.rmdir(os.getcwd())
print(suggest.on_run("run --resume", Path("/runs/a/1")), *suggest.elsewhere(Path("/runs")))
"""


def test_a_folder_that_is_gone_is_no_fault(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    command = [sys.executable, "-I", "-c", PROGRAM.format(root=str(ROOT))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("run --resume /runs/a/1 --runs-dir /runs\n")
