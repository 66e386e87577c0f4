"""A whole trial on pods: the agent in one, the verdict in a second; and tasks proven the way users prove them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.agent_loop.trial import TrialRunner
from runtime.config import Bubblewrap, Kubernetes
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.entries import Link
from runtime.sandboxes.userns import spare_user
from runtime.task import Task, load_task
from runtime.tasks.verify import verify
from tests.runtime.agent_loop.conftest import TEST_ID, Opened, make_config, make_key, make_task
from tests.runtime.agent_loop.conftest import opened as opened
from tests.runtime.agent_loop.conftest import tokenizer_folder as tokenizer_folder
from tests.runtime.scaffolds.shell_trials import both_tool_sets_are_paid

from ..conftest import CALC, IDS
from .conftest import Stage, needs_bubblewrap

pytestmark = [pytest.mark.sandbox, needs_bubblewrap]

SLOW = {"agent_timeout_sec": 60.0, "verifier_timeout_sec": 60.0}


def test_an_agent_and_a_verdict_in_two_pods(stage: Stage, opened: Opened, tmp_path: Path) -> None:
    """Through the front door: the run's settings name the backend; the agent talks to the model proxy from its pod."""
    made = make_task(tmp_path / "tasks")

    async def body() -> None:
        cluster = {"type": "kubernetes", "kubernetes": stage.settings, **SLOW}
        config = make_config(environment=cluster)
        async with opened(["look", "SOLVE"], config) as (services, _):
            result = await TrialRunner(services, config, trials=tmp_path / "trials").run(
                made, key=make_key(), temperature=1.0
            )
        assert result.error is None
        assert (result.reward, result.isolation, result.outcomes) == (1.0, "kubernetes", {TEST_ID: "passed"})
        assert {"fresh_sandbox", "kubernetes"} <= set(result.defences) and "network_off" not in result.defences
        created = [path for method, path in stage.cluster.requests if method == "POST" and "/pods" in path]
        assert len(created) >= 2, "the verdict was computed in the agent's pod"

    stage.play(body)


def test_the_built_in_agent_runs_tests_in_its_pod(stage: Stage, tmp_path: Path) -> None:
    async def body() -> None:
        environment = Kubernetes(kubernetes=stage.settings, **SLOW)
        await both_tool_sets_are_paid(tmp_path, environment, provider=None)

    stage.play(body)


def test_verdicts(stage: Stage, task: Task) -> None:
    async def body() -> None:
        verifier = make_verifier(Bubblewrap(**SLOW), stage.provider)

        async def grade(text: str) -> Verdict:
            return await verifier.grade(task, {"/app/calc.py": text.encode()})

        solved = await grade(CALC.format("+"))
        assert (solved.reward, solved.outcomes) == (1.0, dict.fromkeys(IDS, "passed"))
        assert (await grade(CALC.format("-"))).reward == 0.0
        assert (await grade("import os\nos._exit(0)\n")).reward == 0.0

    stage.play(body)


WRITES_TESTS = """
import glob, os
for name in ("/app/tests/test_calc.py", "/app/tests", "/app"):
    for change in (lambda: os.chmod(name, 0o777), lambda: os.rename(name, name + ".old"), lambda: os.unlink(name)):
        try: change()
        except OSError: pass
seen = []
for path in glob.glob("/app/tests/*") + glob.glob("/tmp/.liverl*/*") + glob.glob("/proc/[0-9]*/environ"):
    if path != f"/proc/{os.getpid()}/environ":
        try: seen.append(open(path, "rb").read())
        except OSError: pass
assert os.getuid() == 1000 and not any(seen), (os.getuid(), seen)
"""


# In the container of the code under test: nothing of the one that judges is to be seen.
ALONE = """
import os
assert os.stat("/app/tests/test_calc.py").st_size == 0
assert os.listdir("/proc").count("1") == 1
for name in os.listdir("/proc"):
    if name.isdecimal() and int(name) != os.getpid():
        assert b"testkit" not in open(f"/proc/{name}/cmdline", "rb").read()
for fd in os.listdir("/proc/self/fd"):
    assert int(fd) <= 4, fd
"""
LOOKS = """
import glob, os
waits = 0
for path in glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/proc/[0-9]*/mem") + glob.glob("/proc/[0-9]*/environ"):
    try:
        text = os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 1 << 20)
    except BlockingIOError:
        waits += 1  # a pipe that its shell reads from: who does not ask first waits here for good, and loses by it
    except OSError:
        continue
    else:
        assert b"def test_" not in text and b"nonce" not in text, path
assert waits
"""
CALLS = """
import socket
for line in open("/proc/net/unix"):
    name = line.split()[-1]
    if name.startswith("@liverl-"):
        other = socket.socket(socket.AF_UNIX)
        other.connect("\\0" + name[1:])
        other.sendall(b"\\0" * 64)
"""


@pytest.mark.skipif(spare_user() is None, reason="a second user can be mapped by root alone")
def test_pods_that_start_as_root_have_a_second_user(stage: Stage, task: Task) -> None:
    path = task.path / "solution" / "files" / "calc.py"
    path.parent.mkdir(parents=True)
    path.write_text(CALC.format("+"))
    stage.changes["user"] = None

    async def body() -> None:
        verifier = make_verifier(Bubblewrap(**SLOW, required_defences=("solution_user",)), stage.provider)
        forged = "class Any(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\n"
        forged += "def add(a, b): return Any()\ndef double(a): return Any()\n"
        for text, reward in ((WRITES_TESTS + CALC.format("+"), 1.0), (CALC.format("-"), 0.0), (forged, 0.0)):
            verdict = await verifier.grade(task, {"/app/calc.py": text.encode()})
            assert verdict.reward == reward and "solution_user" in verdict.defences, verdict.raw

    stage.play(body)


def test_pods_of_an_ordinary_user_have_a_second_container(stage: Stage, task: Task) -> None:
    """Which judges nothing and knows no tests: honest work is paid, no attack is, and the record says how."""
    path = task.path / "solution" / "files" / "calc.py"
    path.parent.mkdir(parents=True)
    path.write_text(CALC.format("+"))
    works = {
        "right": (ALONE + CALC.format("+"), 1.0),
        "looks into all that is open": (LOOKS + CALC.format("+"), 1.0),
        "wrong": (CALC.format("-"), 0.0),
        "ends": ("import os\nos._exit(0)\n", 0.0),
        "equals everything": (
            "class Any(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\n"
            "def add(a, b): return Any()\ndef double(a): return Any()\n",
            0.0,
        ),
        "kills its container": ("import os, signal\nos.kill(1, signal.SIGTERM)\n" + CALC.format("-"), 0.0),
        "calls in another's place": (CALLS + CALC.format("-"), 0.0),
    }

    async def body() -> None:
        verifier = make_verifier(Bubblewrap(**SLOW, required_defences=("solution_user", "reward_file")), stage.provider)
        for name, (text, reward) in works.items():
            changes = {"/app/calc.py": text.encode(), "/app/link": Link("calc.py"), "/app/more/x": b"y"}
            verdict = await verifier.grade(task, changes)
            assert verdict.reward == reward and verdict.status != "tampered", (name, verdict.raw)
            assert "solution_box" in verdict.defences and "canary" not in verdict.defences
        await verifier.close()

    stage.play(body)


def test_an_image_whose_own_user_is_ordinary_gets_a_second_container(stage: Stage, task: Task) -> None:
    """Where nobody says as whom pods run, and the first verdict finds that it is not root."""
    path = task.path / "solution" / "files" / "calc.py"
    path.parent.mkdir(parents=True)
    path.write_text(CALC.format("+"))
    stage.changes |= {"user": None, "image": "registry.example/box:ordinary"}
    stage.cluster.images.add("registry.example/box:ordinary")
    forged = "class Any(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\n"
    forged += "def add(a, b): return Any()\ndef double(a): return Any()\n"

    async def body() -> None:
        verifier = make_verifier(Bubblewrap(**SLOW, required_defences=("solution_user",)), stage.provider)
        for text, reward in ((ALONE + CALC.format("+"), 1.0), (CALC.format("-"), 0.0), (forged, 0.0)):
            verdict = await verifier.grade(task, {"/app/calc.py": text.encode()})
            assert verdict.reward == reward and "solution_box" in verdict.defences, verdict.raw
            assert not {"solution_user", "canary"} & set(verdict.defences)

    stage.play(body)


def test_a_pod_whose_user_turns_out_to_be_ordinary_says_so(stage: Stage, task: Task) -> None:
    """Where the image's own was to be root."""

    async def body() -> None:
        box = await stage.provider.start(SandboxRequest(name="x", lower=task.repository))
        apart = {"trusted": [], "ids": ["tests/test_calc.py"], "python_path": [], "modules": ["calc"]}
        report = await box.run_tests("mini", timeout_sec=30, **apart)
        assert report["runner_error"] == "no second user: the box's own is 10001, not root"
        await box.stop()

    stage.play(body)


def test_a_task_from_elsewhere_is_proven(stage: Stage, task: Task) -> None:
    """Any language: its own tests/test.sh decides, as in Harbor."""
    root = task.path
    (root / "tests" / "test.sh").write_text(
        '#!/bin/bash\nif [ "$(sh /app/add.sh 2 3)" = 5 ]; then r=1; else r=0; fi\necho $r > /logs/verifier/reward.txt\n'
    )
    (root / "environment" / "repo" / "add.sh").write_text("echo $(($1 - $2))\n")
    (root / "solution").mkdir()
    (root / "solution" / "solve.sh").write_text("sed -i 's/-/+/' /app/add.sh\n")
    (root / "task.toml").write_text("")
    foreign = load_task(root)

    async def body() -> None:
        verifier = make_verifier(Bubblewrap(**SLOW), stage.provider)
        report = await verify([foreign], provider=stage.provider, verifier=verifier, concurrency=2, memory_mib=1024)
        assert report.ok, report.to_json()
        assert report.isolation == "kubernetes"

    stage.play(body)
