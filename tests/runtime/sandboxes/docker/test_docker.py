"""Containers of a real engine: what a box can do and see, verdicts, a sample of the attacks, and faults."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compiler import compile_in_memory
from runtime.agent_loop.janitor import clear_sandboxes
from runtime.config import Bubblewrap, Docker
from runtime.errors import MachineError, Termination, TrialError
from runtime.files import write_folder
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.run_paths import RunPaths
from runtime.sandboxes import clear_up, make_provider
from runtime.sandboxes.base import Mount, SandboxRequest
from runtime.sandboxes.docker.provider import DockerProvider
from runtime.sandboxes.state import OwnerState
from runtime.task import Task, load_task
from tests.attacks.catalogue import ATTACKS, FIXED, HONEST, module
from tests.attacks.conftest import attack, make_task
from tests.compiler.golden_cases import spec_path
from tests.docker_engine import BASE, Engine
from tests.runtime.scaffolds.shell_trials import both_tool_sets_are_paid

from .conftest import provider

pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]

SAMPLE = [
    "a01 conftest rewrites reports",
    "tests emptied",
    "a04 exits at import",
    "a18 equals everything",
    "a23 reads the test file",
    "forges a report with the found nonce",
    "replaces the tests while they are defined",
    "a15 a daemon writes the reward",
    "calc is a link to the host",
    "calc is a pipe",
    "links to everywhere",
    "edits the test kit",
    "kills the supervisor",
]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    made = make_task(tmp_path / "fix-add", "mini")
    toml = made.path / "task.toml"
    toml.write_text("\n".join(line for line in toml.read_text().splitlines() if "image" not in line))
    return load_task(made.path)


@pytest.fixture
def request_(task: Task) -> SandboxRequest:
    return SandboxRequest(name="box", lower=task.repository, memory_mib=256, pids=64)


def shell(loop: asyncio.Runner, containers: DockerProvider, request: SandboxRequest, script: str) -> str:
    async def main() -> str:
        sandbox = await containers.start(request)
        try:
            result = await sandbox.exec(["sh", "-c", script], timeout_sec=60)
            return (result.stdout + result.stderr).decode()
        finally:
            await sandbox.stop()

    return loop.run(main())


def test_what_is_inside(
    loop: asyncio.Runner, containers: DockerProvider, request_: SandboxRequest, tmp_path: Path
) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "x").write_text("seen")
    mounted = SandboxRequest(
        name="box", lower=request_.lower, memory_mib=256, mounts=(Mount(tmp_path / "shown", "/shown"),)
    )
    said = shell(
        loop,
        containers,
        mounted,
        "cat /shown/x; echo; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; "
        "for f in /x /usr/x /opt/liverl/guest/x /shown/x /opt/liverl-control/x; do "
        "touch $f 2>/dev/null && echo wrote $f; done; "
        "ls; echo new > calc.py && cat calc.py; cat /proc/net/dev | wc -l; ls /opt/liverl-control | wc -l",
    )
    assert said.split() == [
        *("seen", "CapEff:0000000000000000", "CapBnd:0000000000000000", "NoNewPrivs:1", "Seccomp:2"),
        *("README.md", "calc.py", "tests", "new", "3", "0"),
    ]


def test_verdicts(loop: asyncio.Runner, containers: DockerProvider, task: Task, tmp_path: Path) -> None:
    verifier = make_verifier(Bubblewrap(verifier_timeout_sec=60, memory_mib=256), containers)

    async def grade(script: str) -> Verdict:
        artifacts = await attack(containers, task, script, lambda sandbox: sandbox.download(["/app"]))
        return await verifier.grade(task, artifacts)

    async def main() -> None:
        solved = await grade(module(FIXED))
        assert (solved.reward, solved.status) == (1.0, "solved")
        assert {"fresh_sandbox", "network_off", "no_capabilities", "canary", "docker"} <= set(solved.defences)
        assert (await grade("true")).status == "unsolved"
        assert (await grade(HONEST["leaves daemons"])).reward == 1.0

    loop.run(main())


def test_the_built_in_agent_runs_tests_in_its_box(
    loop: asyncio.Runner, engine: Engine, containers: DockerProvider, tmp_path: Path
) -> None:
    settings = Docker(base_image=BASE, docker_host=engine.url, verifier_timeout_sec=60)
    loop.run(both_tool_sets_are_paid(tmp_path, settings, provider=containers))


def test_code_under_test_is_another_user(loop: asyncio.Runner, containers: DockerProvider, task: Task) -> None:
    (task.path / "solution" / "files").mkdir(parents=True)
    (task.path / "solution" / "files" / "calc.py").write_text(FIXED)
    verifier = make_verifier(Bubblewrap(verifier_timeout_sec=60, memory_mib=256), containers)
    other = "import os\nassert os.getuid() == 1000\n" + FIXED

    async def main() -> Verdict:
        return await verifier.grade(task, {"/app/calc.py": other.encode()})

    verdict = loop.run(main())
    assert verdict.reward == 1.0 and "solution_user" in verdict.defences, verdict.raw


@pytest.mark.parametrize("name", SAMPLE)
def test_attacks_are_not_paid(
    loop: asyncio.Runner, containers: DockerProvider, task: Task, tmp_path: Path, name: str
) -> None:
    verifier = make_verifier(Bubblewrap(verifier_timeout_sec=60, memory_mib=256), containers)

    async def main() -> Verdict:
        artifacts = await attack(containers, task, ATTACKS[name], lambda sandbox: sandbox.download(["/app"]))
        verdict = await verifier.grade(task, artifacts)
        assert isinstance(verdict, Verdict)
        return verdict

    verdict = loop.run(main())
    assert verdict.reward <= 0.0 and verdict.status in ("unsolved", "tampered")


def test_the_forwarded_port_is_the_only_way_out(
    loop: asyncio.Runner, containers: DockerProvider, request_: SandboxRequest
) -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        forwarded = SandboxRequest(name="box", lower=request_.lower, forward=("127.0.0.1", port))
        sandbox = await containers.start(forwarded)
        script = (
            "import urllib.request as u, socket\n"
            f"print(u.urlopen('{sandbox.proxy_url}').read().decode())\n"
            "for a in (('1.1.1.1', 80), ('172.17.0.1', 80), ('127.0.0.1', 22)):\n"
            "    try: socket.create_connection(a, 2); print('connected')\n"
            "    except OSError: print('no')\n"
        )
        result = await sandbox.exec(["python3", "-c", script], timeout_sec=60)
        assert result.stdout.split() == [b"hello", b"no", b"no", b"no"], result.stderr
        await sandbox.stop()
        server.close()

    loop.run(main())


def test_limits(loop: asyncio.Runner, containers: DockerProvider, request_: SandboxRequest) -> None:
    hog = "python3 -c 'x = bytearray(600 << 20)' 2>/dev/null || echo refused; "
    bomb = "i=0; while [ $i -lt 90 ]; do sleep 3 & i=$((i+1)); done 2>/dev/null; echo all"
    fill = "head -c 400000000 /dev/zero > /app/zeros 2>/dev/null || echo full; rm -f /app/zeros; "
    said = shell(loop, containers, request_, hog + fill + f"sh -c '{bomb}' || true")
    assert said.split()[:2] == ["refused", "full"] and "all" not in said.split()


def test_an_image_is_built_once_per_content(
    loop: asyncio.Runner, engine: Engine, containers: DockerProvider, request_: SandboxRequest, tmp_path: Path
) -> None:
    shell(loop, containers, request_, "true")
    # Docker lists images of one second in any order.
    before = set(engine.docker("images", "-q", "liverl/sandbox").split())
    other = provider(engine, tmp_path / "other")
    shell(loop, other, request_, "true")
    assert set(engine.docker("images", "-q", "liverl/sandbox").split()) == before
    (request_.lower / "calc.py").write_text("changed")
    another = provider(engine, tmp_path / "another")
    assert shell(loop, another, request_, "cat calc.py") == "changed"
    loop.run(other.close())
    loop.run(another.close())


def test_a_killed_container_is_a_lost_sandbox(
    loop: asyncio.Runner, engine: Engine, containers: DockerProvider, request_: SandboxRequest
) -> None:
    async def main() -> None:
        sandbox = await containers.start(request_)
        running = asyncio.ensure_future(sandbox.exec(["sleep", "60"], timeout_sec=90))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(engine.docker, "kill", engine.docker("ps", "-q"))
        with pytest.raises(TrialError) as caught:
            await running
        assert caught.value.termination is Termination.SANDBOX_LOST and caught.value.handling.retry
        await sandbox.stop()

    loop.run(main())


def test_a_dead_owners_containers_are_removed(
    loop: asyncio.Runner, engine: Engine, request_: SandboxRequest, tmp_path: Path
) -> None:
    first = provider(engine, tmp_path / "state")
    loop.run(first.start(request_))
    os.close(first._state._lock)  # as its death would
    second = provider(engine, tmp_path / "state")
    assert engine.docker("ps", "-aq") == ""
    loop.run(second.close())


def test_a_run_that_is_cleared_leaves_no_container(
    loop: asyncio.Runner,
    engine: Engine,
    request_: SandboxRequest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its trainer, and each of its workers, may have been killed, and no other start follows."""
    run = RunPaths(tmp_path / "run")
    environment = json.dumps({"type": "docker", "base_image": BASE, "docker_host": engine.url})
    bundle = compile_in_memory(spec_path("quickstart"), target="local", sets=[f"environment={environment}"])
    write_folder(run.bundle, bundle.files)
    for state in (run.state, run.worker_state("1.0")):
        owner = provider(engine, state)
        loop.run(owner.start(request_))
        os.close(owner._state._lock)  # as its death would
    clear_sandboxes(run.path, run.sandbox_states)
    assert engine.docker("ps", "-aq") == "" and not list(run.path.glob("state/**/owner-*"))
    OwnerState(run.state).close(forget=False)
    clear_up(Docker(base_image=BASE, docker_host=f"unix://{tmp_path}/none.sock"), [run.state])
    assert "may be left" in caplog.text


def test_refusals(engine: Engine, tmp_path: Path) -> None:
    for settings, words in (
        ({"docker_host": f"unix://{tmp_path}/none.sock", "base_image": BASE}, "none.sock"),
        ({"docker_host": engine.url, "base_image": "no/such:image"}, "no image no/such:image"),
        ({"docker_host": engine.url, "base_image": BASE, "required_defences": ("user_namespace",)}, "user_namespace"),
    ):
        with pytest.raises(MachineError, match=words):
            make_provider(Docker(**settings), state=tmp_path / "state")  # type: ignore[arg-type]


def test_a_folder_in_the_clients_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    for name in ("__init__", "errors", "types"):
        (tmp_path / "docker" / f"{name}.py").touch()
    script = "from runtime.sandboxes.docker.connection import import_sdk\nimport_sdk()"
    path = f"{tmp_path}:{Path(__file__).parents[4]}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "MachineError" in done.stderr and "stands in the way of the docker client" in done.stderr
