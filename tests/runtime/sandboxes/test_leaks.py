"""Nothing is left behind: after success, an exception, Ctrl-C, and kill -9 of the owner followed by the next start."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime.sandboxes.cgroups import ROOT
from runtime.sandboxes.state import OWNER_VARIABLE, OwnerState, reap

from .conftest import needs_bubblewrap

OWNER = """
import asyncio, os, sys
from pathlib import Path
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.process import ProcessProvider

SLEEP = f"sleep 600.{os.getpid()}"

async def main(kind, end, state, lower):
    state = Path(state)
    provider = ProcessProvider(state=state) if kind == "process" else BubblewrapProvider(
        state=state, nested=kind == "zygote")
    try:
        boxes = [await provider.start(SandboxRequest(name=str(i), lower=Path(lower))) for i in range(3)]
        for box in boxes:
            await box.exec(["sh", "-c", f"echo x > made; setsid {SLEEP} > /dev/null 2>&1 &"], timeout_sec=10)
        running = [asyncio.ensure_future(box.exec(SLEEP.split(), timeout_sec=700)) for box in boxes]
        print("ready", flush=True)
        if end == "exception":
            raise ValueError("a bug")
        if end != "success":
            await asyncio.gather(*running)
        for task in running:
            task.cancel()
    finally:
        await provider.close()

asyncio.run(main(*sys.argv[1:]))
"""


def traces(state: Path, owner: int) -> list[str]:
    """Processes, mounts and control groups that belong to the process ``owner``, and files in ``state``."""
    name = f"owner-{owner}-"
    # os.walk passes over what goes away meanwhile.
    found = [f"{at}/{entry}" for at, folders, files in os.walk(state) for entry in (*folders, *files)]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(state) in line]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{OWNER_VARIABLE}={name}".encode() in environment or words == f"sleep\x00600.{owner}\x00".encode():
            found.append(f"{entry.name} {words!r}")
    groups = (f"{at}/{entry}" for at, folders, _ in os.walk(ROOT) for entry in folders)
    return found + [group for group in groups if Path(group).name.startswith(f"liverl-{name}")]


def settled(state: Path, owner: int) -> list[str]:
    """What is left when the kernel has had a moment to take a killed tree apart."""
    for _ in range(200):
        if not (left := traces(state, owner)):
            return []
        time.sleep(0.05)
    return left


@pytest.mark.sandbox
@needs_bubblewrap
@pytest.mark.parametrize("kind", ["zygote", "solo", "process"])
@pytest.mark.parametrize("end", ["success", "exception", "interrupt", "kill"])
def test_no_trace_is_left(tmp_path: Path, repository: Path, kind: str, end: str) -> None:
    state = tmp_path / "state"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, kind, end, str(state), str(repository)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
        start_new_session=True,
    )
    try:
        assert owner.stdout is not None and owner.stdout.readline() == b"ready\n"
        while end in ("interrupt", "kill") and sum("sleep" in trace for trace in traces(state, owner.pid)) < 6:
            assert owner.poll() is None
            time.sleep(0.05)  # a daemon and a command in each of three boxes
        if end == "interrupt":
            os.killpg(owner.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
        elif end == "kill":
            owner.kill()
        owner.wait(timeout=20)
        owner.stdout.close()
    finally:
        owner.kill()
        owner.wait()
    if end == "kill":
        reap(state)  # what the next start does first
    assert settled(state, owner.pid) == []


def test_a_living_owner_is_left_alone(tmp_path: Path) -> None:
    first = OwnerState(tmp_path)
    (first.path / "box").mkdir()
    second = OwnerState(tmp_path)
    assert second.removed == [] and (first.path / "box").is_dir()
    first.close()
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_owner_is_recognised_by_its_lock_not_by_its_number(tmp_path: Path) -> None:
    """The process number may have been given to another process since."""
    dead = tmp_path / f"owner-{os.getpid()}-0badcafe"
    (dead / "box").mkdir(parents=True)
    (dead / "lock").touch()
    assert reap(tmp_path) == [dead.name]
    (dead / "box").mkdir(parents=True)
    with (dead / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert reap(tmp_path) == []
        assert dead.is_dir()
        # A child that the dead one was forking has its lock for a moment longer, until it is another program.
        threading.Timer(0.2, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        assert reap(tmp_path, patience_sec=10.0) == [dead.name]
    assert not dead.exists()
