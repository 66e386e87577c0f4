"""Two hundred trials at once on a small machine: all graded, each rightly, none lost, nothing left behind."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.grading.make import make_verifier
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.cgroups import ROOT
from runtime.sandboxes.state import OWNER_VARIABLE
from runtime.task import Task

from .conftest import Run, needs_bubblewrap

pytestmark = [pytest.mark.sandbox, needs_bubblewrap]

TRIALS = 200
DAEMON = f"sleep 600.{os.getpid()}"
FIX = "sed -i 's/a - b/a + b/' calc.py"
FINISHED = {
    "fixes it": (FIX, 1.0),
    "does nothing": ("true", 0.0),
    "leaves daemons": (f"{FIX}; for i in 1 2 3; do setsid {DAEMON} > /dev/null 2>&1 & done", 1.0),
    "breaks it": ("echo 'import os; os._exit(0)' > calc.py", 0.0),
}


@pytest.mark.parametrize("settings", [{}, {"max_sandboxes": 48, "warm_sandboxes": 2}], ids=["at once", "pooled"])
def test_two_hundred_trials_at_once(run: Run, task: Task, tmp_path: Path, settings: dict[str, int]) -> None:
    state = tmp_path / "many"
    before, open_before = traces(state), descriptors()  # of other tests in this process
    environment = Bubblewrap(require_isolation=True, verifier_timeout_sec=120, memory_mib=128, pids=32, **settings)

    async def main() -> list[tuple[str, float]]:
        provider = make_provider(environment, state=state)
        verifier = make_verifier(environment, provider)
        together = 0
        most = 0

        async def trial(number: int) -> tuple[str, float]:
            nonlocal together, most
            name = list(FINISHED)[number % len(FINISHED)]
            sandbox = await provider.start(
                SandboxRequest(name=f"t{number}", lower=task.repository, memory_mib=128, pids=32)
            )
            together += 1
            most = max(most, together)
            try:
                done = await sandbox.exec(["sh", "-c", FINISHED[name][0]], timeout_sec=120)
                assert done.exit_code == 0, done
                if not settings:
                    while most < TRIALS:  # nobody leaves before all are there
                        await asyncio.sleep(0.05)
                artifacts = await sandbox.download(["/app"])
            finally:
                together -= 1
                await sandbox.stop()
            return name, (await verifier.grade(task, artifacts)).reward

        start = time.monotonic()
        try:
            results = await asyncio.gather(*(trial(number) for number in range(TRIALS)))
        finally:
            await provider.close()
        assert most == TRIALS if not settings else most <= 48
        print(f"{TRIALS} trials in {time.monotonic() - start:.1f} s")
        return results

    results = run(main())
    assert len(results) == TRIALS
    assert [(name, reward) for name, reward in results if reward != FINISHED[name][1]] == []
    for _ in range(40):
        left = [trace for trace in traces(state) if trace not in before]
        if not left:
            break
        time.sleep(0.05)  # the kernel needs a moment to take a killed tree apart
    assert left == []
    assert descriptors() <= open_before


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def traces(state: Path) -> list[str]:
    """Files, mounts, control groups and processes of this process's sandboxes, its daemons' among them."""
    owner = f"owner-{os.getpid()}-"
    found = [str(path) for path in state.rglob("*")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(state) in line]
    found += [str(path) for path in ROOT.glob(f"*/**/liverl-{owner}*")]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{OWNER_VARIABLE}={owner}".encode() in (entry / "environ").read_bytes()
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marked or DAEMON in words:
            found.append(f"{entry.name} {words}")
    return found
