"""Tasks judged by a script: the reward file is out of the reach of what the script starts, or the record says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.errors import Termination, TrialError
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.sandboxes.base import SandboxProvider
from runtime.sandboxes.userns import spare_user
from runtime.task import Task, load_task

from .conftest import write

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(spare_user() is None, reason="a second user can be mapped by root alone"),
]

SUMS = "echo $(($1 - $2))\n"
FILES = {
    "environment/repo/add.sh": SUMS,
    "environment/repo/calc.py": "def add(a, b):\n    return a - b\n",
    "instruction.md": "Add.\n",
    "task.toml": '[environment]\nworkdir = "/app"\n',
    "solution/solve.sh": "#!/bin/bash\nsed -i 's/ - / + /' /app/add.sh /app/calc.py\n",
}
RIGHT = {"/app/add.sh": SUMS.replace(" - ", " + ").encode(), "/app/calc.py": b"def add(a, b):\n    return a + b\n"}
PYTHON = """#!/bin/bash
cd /app
python3 -c 'import calc, sys; sys.exit(calc.add(20, 31) != 51)' 2>&1 | tee /logs/verifier/said.txt
if [ ${PIPESTATUS[0]} -eq 0 ]; then echo 1 > /logs/verifier/reward.txt; else echo 0 > /logs/verifier/reward.txt; fi
"""
SHELL = """#!/usr/bin/env bash
sum=$(timeout 20 sh /app/add.sh 20 31)
if [ "$sum" = 51 ]; then r=1; else r=0; fi
echo "{\\"reward\\": $r}" > /logs/verifier/reward.json
"""
BY_PYTHON = """#!/bin/bash
cd /app && python3 -c '
import calc
open("/logs/verifier/reward.txt", "w").write(str(int(calc.add(20, 31) == 51)))'
"""
REDIRECTED = """#!/bin/bash
cd /app && python3 -c 'import calc; print(int(calc.add(20, 31) == 51))' > /logs/verifier/reward.txt
"""
PIPED = """#!/bin/bash
cd /app && python3 -c 'import calc; print(int(calc.add(20, 31) == 51))' | cat >> /logs/verifier/reward.txt
"""
EVALUATED = """#!/bin/bash
cd /app
sum=$(python3 -c 'import calc; print(calc.add(20, 31))')
if [[ $sum -eq 51 ]]; then echo 1 > /logs/verifier/reward.txt; else echo 0 > /logs/verifier/reward.txt; fi
"""
COUNTED = """#!/bin/bash
sum=$(timeout 20 sh /app/add.sh 20 31)
echo $((sum == 51)) > /logs/verifier/reward.txt
"""
WRITES = b"""import glob, os, signal, subprocess, sys
def write(path):
    try: open(path, "w").write('{"reward": 1}' if path.endswith("json") else "1")
    except OSError as error: print(error)
FILES = ["/logs/verifier/reward.json", "/logs/verifier/reward.txt"]
for path in FILES:
    for change in (lambda: None, lambda: os.chmod(path, 0o666), lambda: os.unlink(path),
                   lambda: os.rename("/logs/verifier", "/logs/old"), lambda: os.chmod("/logs/verifier", 0o777)):
        try: change()
        except OSError: pass
        write(path)
for fd in glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/proc/[0-9]*/mem"):
    if not fd.startswith(f"/proc/{os.getpid()}/"):
        try: open(fd, "r+b", 0).write(b"1")
        except OSError: pass
import socket
try:
    other = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.connect("/run/liverl-second")
    other.send(b'{"argv": ["sh", "-c", "echo 1 > /logs/verifier/reward.txt"], "cwd": "/", "env": {}}')
except OSError: pass
if os.fork() == 0:
    os.setsid()
    import time
    for _ in range(200):
        for path in FILES: write(path)
        time.sleep(0.01)
    os._exit(1)
for pid in range(1, 400):
    if pid not in (os.getpid(), os.getppid()):
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
os._exit(1)
"""


def script_task(root: Path, script: str) -> Task:
    write(root, {**FILES, "tests/test.sh": script})
    return load_task(root)


def grade(
    provider: SandboxProvider, loop: asyncio.Runner, task: Task, work: dict[str, bytes], *required: str
) -> Verdict:
    settings = Bubblewrap(memory_mib=512, verifier_timeout_sec=20.0, required_defences=required)
    return loop.run(make_verifier(settings, provider).grade(task, work))


@pytest.mark.parametrize(("name", "script"), {"python": PYTHON, "shell": SHELL}.items())
def test_the_reward_file_is_out_of_reach(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path, name: str, script: str
) -> None:
    task = script_task(tmp_path / name, script)
    solved = grade(provider, loop, task, RIGHT, "reward_file")
    assert (solved.reward, solved.status) == (1.0, "solved") and "reward_file" in solved.defences, solved.raw
    assert "solution_user" not in solved.defences
    with pytest.raises(TrialError, match="not to be had: solution_user"):  # an exit code may lie all the same
        grade(provider, loop, task, RIGHT, "solution_user")
    assert grade(provider, loop, task, {}, "reward_file").reward == 0.0
    attack = {"/app/calc.py": WRITES, "/app/hack.py": WRITES, "/app/add.sh": b"python3 /app/hack.py\n"}
    verdict = grade(provider, loop, task, attack, "reward_file")
    assert (verdict.reward, verdict.status) == (0.0, "unsolved"), verdict.raw
    who = b'import os\nassert os.getuid() == 1000\nfor name in ("add.sh", "calc.py"): open(name).close()\n'
    shown = {**RIGHT, "/app/calc.py": who + RIGHT["/app/calc.py"]}
    assert grade(provider, loop, task, shown, "reward_file").reward == 1.0


@pytest.mark.parametrize("script", [EVALUATED, COUNTED], ids=["a comparison", "a sum"])
def test_a_shell_that_evaluates_what_programs_print_has_none_either(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path, script: str
) -> None:
    """``a[$(...)]`` where it expects a number is a command that the one user runs who may write the reward."""
    task = script_task(tmp_path / "task", script)
    solved = grade(provider, loop, task, RIGHT)
    assert solved.reward == 1.0 and "reward_file" not in solved.defences
    with pytest.raises(TrialError, match="required defences not to be had: reward_file"):
        grade(provider, loop, task, RIGHT, "reward_file")


@pytest.mark.parametrize("script", [BY_PYTHON, REDIRECTED, PIPED], ids=["opens", "is given it", "the last of a pipe"])
def test_where_a_program_writes_the_reward_the_record_has_no_such_defence(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path, script: str
) -> None:
    task = script_task(tmp_path / "task", script)
    solved = grade(provider, loop, task, RIGHT)
    assert solved.reward == 1.0 and "reward_file" not in solved.defences
    with pytest.raises(TrialError, match="required defences not to be had: reward_file") as caught:
        grade(provider, loop, task, RIGHT, "reward_file")
    assert caught.value.termination is Termination.TASK_INVALID
