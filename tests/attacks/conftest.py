"""One task, and what grades it: LiveRL's verifier, or a naive script in the box that the agent has just used."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.errors import MachineError, TrialError
from runtime.grading import difference
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.sandboxes import bwrap, images
from runtime.sandboxes.base import ArtifactsRefused, Sandbox, SandboxProvider, SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.entries import Entry
from runtime.task import Task, load_task

from .catalogue import BROKEN, FIXED, TESTS

IMAGE = f"pytest=={pytest.__version__}"
IDS = [f"tests/test_calc.py::test_{name}" for name in ("add", "double", "zero")]
AGENT_SEC = 60.0
NAIVE_SEC = 30.0
NAIVE = """
mkdir -p /app/tests /logs/verifier; cat > /app/tests/test_calc.py
(cd /app && python3 -m pytest -q tests/test_calc.py > /logs/verifier/output 2>&1)
if [ $? -eq 0 ]; then echo 1 > /logs/verifier/reward.txt; else echo 0 > /logs/verifier/reward.txt; fi
sleep 0.1
"""

Grade = Callable[[str], Verdict]


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_task(root: Path, runner: str) -> Task:
    """runner: ``mini`` or ``pytest``; with ``+solution``, the task has one, so that its code can be another user."""
    runner, _, solution = runner.partition("+")
    files = {
        "environment/repo/calc.py": BROKEN,
        "environment/repo/README.md": "A calculator.\n",
        "environment/repo/tests/test_calc.py": TESTS,
        "tests/files/tests/test_calc.py": TESTS,
        "tests/test.sh": "exit 1\n",
        "instruction.md": "Fix calc.add.\n",
        "task.toml": f"""
            [metadata.liverl]
            fail_to_pass = {json.dumps(IDS[:2])}
            pass_to_pass = {json.dumps(IDS[2:])}
            test_files = ["tests/test_calc.py"]
            runner = "{runner}"
            image = "{IMAGE}"
        """,
        **({"solution/files/calc.py": FIXED} if solution else {}),
    }
    write(root, files)
    return load_task(root)


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory, loop: asyncio.Runner) -> Iterator[SandboxProvider]:
    if bwrap.why_impossible() is not None:
        pytest.skip(str(bwrap.why_impossible()))
    try:
        images.prepare(IMAGE)
    except MachineError as error:
        pytest.skip(f"{IMAGE}: {error}")
    made = BubblewrapProvider(state=tmp_path_factory.mktemp("attacks") / "state")
    yield made
    loop.run(made.close())


async def attack(provider: SandboxProvider, task: Task, script: str, then: Callable[[Sandbox], Awaitable[object]]):  # type: ignore[no-untyped-def]
    """Run ``script`` as the agent of ``task``; what ``then`` makes of its box, which is gone afterwards."""
    request = SandboxRequest(name="agent", lower=task.repository, image=task.liverl.image, memory_mib=512, pids=128)
    sandbox = await provider.start(request)
    try:
        with contextlib.suppress(TimeoutError):
            await sandbox.exec(["sh", "-c", script], timeout_sec=AGENT_SEC)
        return await then(sandbox)
    finally:
        await sandbox.stop()


async def collect(task: Task, sandbox: Sandbox) -> dict[str, Entry]:
    try:
        return await difference.collect(task, sandbox)
    except ArtifactsRefused:
        return {}


@pytest.fixture
def grade(provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path, request: pytest.FixtureRequest) -> Grade:
    """Run a program as the agent and grade what it leaves, as a trial does."""
    task = make_task(tmp_path / "fix-add", getattr(request, "param", "pytest"))
    config = Bubblewrap(memory_mib=512, verifier_timeout_sec=60.0)
    verifier = make_verifier(config, provider)

    def run(script: str) -> Verdict:
        async def main() -> Verdict:
            return await verifier.grade(task, await attack(provider, task, script, lambda box: collect(task, box)))

        return loop.run(main())

    return run


@pytest.fixture(scope="session")
def naive(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Mapping[str, str]], dict[str, str | None]]:
    """The rewards that a script in the agents' own boxes pays, by name of the program: as written, or None."""
    task = make_task(tmp_path_factory.mktemp("naive") / "fix-add", "pytest")

    async def judge(sandbox: Sandbox) -> str | None:
        with contextlib.suppress(TimeoutError):
            await sandbox.exec(["bash", "-lc", NAIVE], stdin=TESTS.encode(), timeout_sec=NAIVE_SEC)
        script = "cat /logs/verifier/reward.json 2>/dev/null || cat /logs/verifier/reward.txt"
        return (await sandbox.exec(["sh", "-c", script], timeout_sec=NAIVE_SEC)).stdout.decode().strip() or None

    def run(scripts: Mapping[str, str]) -> dict[str, str | None]:
        async def main() -> list[str | None]:
            gate = asyncio.Semaphore(4)

            async def one(script: str) -> str | None:
                async with gate:
                    try:
                        word: str | None = await attack(provider, task, script, judge)
                    except TrialError:
                        return None  # the box did not survive it
                    return word

            return await asyncio.gather(*map(one, scripts.values()))

        return dict(zip(scripts, loop.run(main()), strict=True))

    return run
