"""Code under test in a box of its own, where there is no second user: no attack is paid, honest work is, and the two
boxes share nothing but a socket."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from runtime.config import Bubblewrap
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.sandboxes.base import SandboxProvider
from runtime.sandboxes.bubblewrap import BubblewrapProvider

from .catalogue import ATTACKS, BROKEN, FIXED, HONEST, module
from .conftest import attack, collect, make_task
from .test_other_user import OTHER_USER, WATCHING

pytestmark = pytest.mark.sandbox

# What two boxes of one user of the machine might still share, or one hand to the other.
SHARED = {
    "sends descriptors over the socket": (
        "import array, os, socket\n_other = socket.socket(fileno=os.dup(3))\n"
        "_fds = array.array('i', [os.open('/', os.O_RDONLY)] * 200)\n"
        "_other.sendmsg([b'\\0\\0\\0\\0'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _fds)])\n" + BROKEN
    ),
    "takes over the judge's limits": (
        "import os, resource\nfor _pid in range(1, 300):\n"
        "    for _what in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):\n"
        "        try: resource.prlimit(_pid, _what, (0, 0))\n        except OSError: pass\n" + BROKEN
    ),
    "leaves files where the judge might look": (
        "for _folder in ('/tmp', '/dev/shm', '/run', '/logs', '/root', '/tests', '/app', '/app/tests'):\n"
        "    for _name in ('conftest.py', 'sitecustomize.py', 'pytest.ini', 'calc.py', 'test_calc.py'):\n"
        "        try: open(f'{_folder}/{_name}', 'w').write('raise SystemExit(0)')\n        except OSError: pass\n"
        + BROKEN
    ),
    "answers with the pieces of two messages": (
        "import os, struct\ndef add(a, b):\n    text = b'[\"value\", 5, {}]'\n"
        "    os.write(3, (struct.pack('!I', len(text)) + text) * 3 + b'\\0\\0')\n    return 5\ndouble = add\n"
    ),
    "hangs up and is asked again": "import os\ndef add(a, b):\n    os.close(3)\n    return a + b\ndouble = add\n",
}
ALONE = """
import os, socket
assert sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())[0] == 1
assert not os.listdir("/.host") and os.stat("/app/tests/test_calc.py").st_size == 0
for name in os.listdir("/proc"):
    if name.isdecimal() and int(name) != os.getpid():
        assert b"mini.py" not in open(f"/proc/{name}/cmdline", "rb").read()
for fd in os.listdir("/proc/self/fd"):
    assert int(fd) <= 4, fd
"""


@pytest.fixture(scope="module")
def boxes(
    provider: SandboxProvider, tmp_path_factory: pytest.TempPathFactory, loop: asyncio.Runner
) -> Iterator[SandboxProvider]:
    made = BubblewrapProvider(state=tmp_path_factory.mktemp("boxes") / "state", second_user=False)
    yield made
    loop.run(made.close())


def verdicts(
    boxes: SandboxProvider, loop: asyncio.Runner, folder: Path, programs: Mapping[str, str], runner: str = "mini"
) -> dict[str, Verdict]:
    task = make_task(folder / "fix-add", f"{runner}+solution")
    verifier = make_verifier(
        Bubblewrap(memory_mib=512, verifier_timeout_sec=60.0, required_defences=("solution_user",)), boxes
    )
    gate = asyncio.Semaphore(4)

    async def one(script: str) -> Verdict:
        async with gate:
            return await verifier.grade(task, await attack(boxes, task, script, lambda box: collect(task, box)))

    async def every() -> list[Verdict]:
        return await asyncio.gather(*map(one, programs.values()))

    return dict(zip(programs, loop.run(every()), strict=True))


def test_no_attack_is_paid(boxes: SandboxProvider, loop: asyncio.Runner, tmp_path: Path) -> None:
    programs = ATTACKS | {name: module(text) for name, text in (OTHER_USER | SHARED).items()}
    for name, verdict in verdicts(boxes, loop, tmp_path, programs).items():
        assert (verdict.reward, verdict.status) == (0.0, "unsolved"), (name, verdict.raw)
        assert "solution_box" in verdict.defences and not {"solution_user", "canary"} & set(verdict.defences)


@pytest.mark.parametrize("runner", ["mini", "pytest"])
def test_honest_work_is_paid(boxes: SandboxProvider, loop: asyncio.Runner, tmp_path: Path, runner: str) -> None:
    alone = {
        name: module(text + FIXED)
        for name, text in {"alone": ALONE, "blind": WATCHING + "assert not seen, seen\n"}.items()
    }
    for name, verdict in verdicts(boxes, loop, tmp_path, HONEST | alone, runner).items():
        assert (verdict.reward, verdict.status) == (1.0, "solved"), (name, verdict.raw)
        assert "solution_box" in verdict.defences


def test_a_machine_that_nests_no_namespaces_has_two_boxes_too(
    provider: SandboxProvider, loop: asyncio.Runner, tmp_path: Path
) -> None:
    solo = BubblewrapProvider(state=tmp_path / "state", nested=False, second_user=False)
    programs = {"right": module(FIXED), "wrong": module(BROKEN), "forges": ATTACKS[next(iter(ATTACKS))]}
    try:
        found = verdicts(solo, loop, tmp_path, programs)
    finally:
        loop.run(solo.close())
    assert [verdict.reward for verdict in found.values()] == [1.0, 0.0, 0.0]
    assert all("solution_box" in verdict.defences for verdict in found.values())
