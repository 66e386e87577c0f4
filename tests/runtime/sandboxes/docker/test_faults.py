"""What goes wrong with engines, registries and disks ends as its typed failure with its policy, and leaves nothing."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.config import Bubblewrap, Docker
from runtime.errors import MachineError, Termination, TrialError
from runtime.grading.make import make_verifier
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.docker.connection import connection
from runtime.sandboxes.docker.provider import DockerProvider
from runtime.task import Task, load_task
from tests.attacks.conftest import make_task
from tests.docker_engine import BASE, Engine

from .conftest import provider
from .faulty import Fault, FaultyEngine, Registry

pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    (tmp_path / "lower").mkdir()
    return tmp_path / "lower"


@pytest.fixture
def faulty(engine: Engine, tmp_path: Path) -> Iterator[FaultyEngine]:
    with FaultyEngine(engine.root / "faulty.sock", engine.url.removeprefix("unix://")).serving() as made:
        yield made
    assert engine.docker("ps", "-aq") == ""


def through(faulty: FaultyEngine, tmp_path: Path, *, attached: bool = False) -> DockerProvider:
    return DockerProvider(connection(faulty.url), state=tmp_path / "state", base=BASE, attached=attached)


async def failure(awaitable) -> TrialError:
    with pytest.raises(TrialError) as caught:
        await awaitable
    return caught.value


@pytest.mark.parametrize("attached", [False, True])
def test_an_engine_that_falters_is_asked_again(
    loop: asyncio.Runner, faulty: FaultyEngine, engine: Engine, lower: Path, tmp_path: Path, attached: bool
) -> None:
    async def main() -> None:
        made = through(faulty, tmp_path, attached=attached)
        faulty.faults = [
            Fault("GET /images/liverl/sandbox", 500),
            Fault("GET /images/liverl/sandbox", 0),
            Fault("POST /containers/create", 503),
            Fault("POST /containers/create", 429),
            Fault("POST /containers/create", 0, after=True),
            Fault("POST /containers/[^/]*/start", 500),
            Fault("POST /containers/[^/]*/start", 0, after=True),
            Fault("DELETE /containers/", 500, times=2),
        ]
        box = await made.start(SandboxRequest(name="box", lower=lower))
        assert len(engine.docker("ps", "-aq").split()) == 1, "a repeated creation made a second container"
        assert (await box.exec(["echo", "1"], timeout_sec=30)).stdout == b"1\n"
        await box.stop()
        await made.close()
        assert not [fault for fault in faulty.faults if fault.times]

    loop.run(main())


def test_an_engine_that_keeps_failing_is_a_failed_setup(
    loop: asyncio.Runner, faulty: FaultyEngine, lower: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        made = through(faulty, tmp_path)
        for what, status, words, most in (
            ("POST /containers/create", 500, "injected", 5),
            ("POST /containers/create", 400, "injected", 1),
            ("POST /containers/[^/]*/start", 500, "injected", 5),
            ("POST /containers/create", 500, "write /x: no space left on device", 1),
        ):
            faulty.faults = [Fault(what, status, message=words, times=99)]
            faulty.seen.clear()
            error = await failure(made.start(SandboxRequest(name="box", lower=lower)))
            assert error.termination is Termination.ENV_SETUP_FAILED and words in str(error)
            assert error.handling.retry and not error.handling.grade
            assert sum(what.split()[1].split("[")[0] in seen and what[-5:] in seen for seen in faulty.seen) <= most
        faulty.faults.clear()
        await (await made.start(SandboxRequest(name="box", lower=lower))).stop()
        await made.close()

    loop.run(main())


def test_a_cancelled_start_leaves_no_container(
    loop: asyncio.Runner, faulty: FaultyEngine, engine: Engine, lower: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        made = through(faulty, tmp_path)
        await (await made.start(SandboxRequest(name="warm", lower=lower))).stop()
        for delay in (0.0, 0.05, 0.15, 0.3):
            starting = asyncio.ensure_future(made.start(SandboxRequest(name="box", lower=lower)))
            await asyncio.sleep(delay)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        await made.close()
        assert engine.docker("ps", "-aq") == ""

    loop.run(main())


@pytest.mark.parametrize("tls", [False, True], ids=["socket", "tls"])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_engine_restarts_in_mid_trial(
    loop: asyncio.Runner, engine: Engine, lower: Path, tmp_path: Path, tls: bool, how: str
) -> None:
    async def main() -> None:
        made = provider(engine, tmp_path / "state", tls=tls)
        box = await made.start(SandboxRequest(name="box", lower=lower))
        running = asyncio.ensure_future(box.exec(["sleep", "60"], timeout_sec=90))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(getattr(engine, how))
        again = asyncio.ensure_future(made.start(SandboxRequest(name="again", lower=lower)))
        await asyncio.sleep(1)
        assert not again.done(), "an engine that restarts is waited for"
        await asyncio.to_thread(engine.start)
        error = await failure(running)
        assert error.termination is Termination.SANDBOX_LOST and error.handling.retry and not error.handling.grade
        await box.stop()
        other = await again
        assert (await other.exec(["echo", "1"], timeout_sec=30)).stdout == b"1\n"
        await made.close()
        assert engine.docker("ps", "-aq") == ""

    loop.run(main())


def test_what_cannot_be_removed_because_the_engine_is_gone_is_removed_at_the_next_start(
    loop: asyncio.Runner, engine: Engine, lower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.sandboxes.docker.engine.PATIENCE_SEC", 1.0)
    made = provider(engine, tmp_path / "state")
    loop.run(made.start(SandboxRequest(name="box", lower=lower)))
    engine.stop()
    loop.run(made.close())
    engine.start()
    assert engine.docker("ps", "-aq")
    following = provider(engine, tmp_path / "state")
    assert engine.docker("ps", "-aq") == ""
    loop.run(following.close())
    assert list((tmp_path / "state").iterdir()) == []


def test_a_full_disk_of_the_engine(loop: asyncio.Runner, tmp_path: Path, lower: Path) -> None:
    disk = Path("/tmp") / f"liverl-disk-{tmp_path.name[-12:]}"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700m", "tmpfs", str(disk)], check=True)
    try:
        with Engine.temporary(more=(f"--data-root={disk}/data",)) as engine:

            async def main() -> None:
                made = DockerProvider(connection(engine.url), state=tmp_path / "state", base=BASE)
                fill = await asyncio.create_subprocess_shell(f"head -c 800M /dev/zero > {disk}/fill 2> {tmp_path}/said")
                await fill.wait()
                error = await failure(made.start(SandboxRequest(name="box", lower=lower)))
                assert error.termination is Termination.ENV_SETUP_FAILED and "no space left on device" in str(error)
                (disk / "fill").unlink()
                box = await made.start(SandboxRequest(name="box", lower=lower))
                assert (await box.exec(["echo", "1"], timeout_sec=30)).stdout == b"1\n"
                await made.close()
                assert engine.docker("ps", "-aq") == ""

            loop.run(main())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()


def test_a_base_image_is_pulled_and_a_busy_registry_is_waited_for(
    loop: asyncio.Runner, engine: Engine, tmp_path: Path
) -> None:
    with Registry(busy=2).serving() as registry:
        made = provider(engine, tmp_path / "state", base=registry.image)
        assert registry.busy == 0 and engine.docker("images", "-q", registry.image)
        loop.run(made.close())
        engine.docker("rmi", registry.image)
        registry.busy = 99
        with pytest.raises(MachineError, match="too busy") as caught:
            provider(engine, tmp_path / "state", base=registry.image)
        assert "docker login" in caught.value.fix
        registry.busy, registry.asked = 0, 0
        with pytest.raises(MachineError, match="no image"):
            provider(engine, tmp_path / "state", base=registry.image.replace(":1", ":2"))
        assert registry.asked <= 4, "what does not exist is not asked for again and again"


def test_images_that_somebody_removed_are_built_again(
    loop: asyncio.Runner, engine: Engine, lower: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        made = provider(engine, tmp_path / "state")
        (lower / "new").write_text(str(time.time()))
        await (await made.start(SandboxRequest(name="box", lower=lower))).stop()
        await asyncio.gather(*made._removing)
        tag = await made._engine.image(SandboxRequest(name="box", lower=lower))
        engine.docker("rmi", tag)
        await (await made.start(SandboxRequest(name="box", lower=lower))).stop()
        assert dict(made.counts) == {"images_built": 2, "images_found": 0, "images_reused": 2}
        await made.close()

    loop.run(main())


def test_what_hangs_inside_a_container(
    loop: asyncio.Runner, containers: DockerProvider, lower: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        box = await containers.start(SandboxRequest(name="box", lower=lower, memory_mib=256, pids=64))
        with pytest.raises(TimeoutError):
            await box.exec(["sh", "-c", "sleep 61 & sleep 62"], timeout_sec=1)
        daemon = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nwhile True: time.sleep(0.05); print('x')"
        done = await box.exec(["python3", "-c", daemon], timeout_sec=50)
        assert done.exit_code == 0  # who waits for the pipe, which a daemon holds, runs into the timeout
        listed = await box.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"], timeout_sec=20)
        assert b"sleep 61" not in listed.stdout and b"sleep 62" not in listed.stdout
        await box.stop()

    loop.run(main())


def test_a_verifier_that_hangs_and_one_that_is_killed(
    loop: asyncio.Runner, engine: Engine, containers: DockerProvider, tmp_path: Path
) -> None:
    made = make_task(tmp_path / "fix-add", "mini")
    toml = made.path / "task.toml"
    toml.write_text("\n".join(line for line in toml.read_text().splitlines() if "image" not in line))
    task: Task = load_task(made.path)
    hang = {"/app/calc.py": b"import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass\n"}

    right = b"\n\n\ndef add(a, b):\n    return a + b\n\n\ndef double(a):\n    return add(a, a)\n"
    slow = {"/app/calc.py": b"import time\ntime.sleep(2.5)" + right}

    async def main() -> None:
        verifier = make_verifier(Bubblewrap(verifier_timeout_sec=3, memory_mib=256), containers)
        verdict = await verifier.grade(task, hang)
        assert (verdict.status, verdict.reward) == ("unsolved", 0.0) and b"verifier_timeout" in verdict.raw
        await asyncio.gather(*containers._removing)
        patient = make_verifier(Bubblewrap(verifier_timeout_sec=60, memory_mib=256), containers)
        grading = asyncio.ensure_future(patient.grade(task, slow))
        while not (found := await asyncio.to_thread(engine.docker, "ps", "-q")):
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        await asyncio.to_thread(engine.docker, "kill", *found.split())
        # Not the work's fault: other work and then the same is judged in new containers.
        verdict = await grading
        assert verdict.status == "solved", verdict.raw

    loop.run(main())


def test_the_pool_on_containers(loop: asyncio.Runner, engine: Engine, lower: Path, tmp_path: Path) -> None:
    """Made ahead, never used twice, nothing left; one that died while it waited is not handed out."""

    async def main() -> None:
        settings = Docker(docker_host=engine.url, base_image=BASE, warm_sandboxes=2)
        made = make_provider(settings, state=tmp_path / "state")
        seen = []
        for number in range(5):
            box = await made.start(SandboxRequest(name=f"t{number}", lower=lower))
            script = "ls /app /tmp; echo mine > /app/mine; echo mine > /tmp/mine; cat /etc/hostname"
            done = await box.exec(["sh", "-c", script], timeout_sec=30)
            assert b"mine" not in done.stdout
            seen.append(done.stdout.split()[-1])
            await box.stop()
            for _ in range(100):
                if len((await asyncio.to_thread(engine.docker, "ps", "-q")).split()) == 2:
                    break
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)  # its supervisor has started
            if number == 3:
                found = (await asyncio.to_thread(engine.docker, "ps", "-q")).split()
                await asyncio.to_thread(engine.docker, "kill", *found)
                await asyncio.sleep(0.5)
        assert len(set(seen)) == 5
        numbers = made.counts
        assert numbers["hits"] == 3 and numbers["misses"] == 2 and numbers["images_reused"] > 3
        await made.close()
        assert engine.docker("ps", "-aq") == ""

    loop.run(main())
