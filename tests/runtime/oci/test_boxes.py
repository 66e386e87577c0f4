"""Boxes made of images that have neither libc nor Python nor bash, and tasks whose images are fetched or built."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.config import Bubblewrap
from runtime.config.environment import Images
from runtime.errors import TrialError
from runtime.grading.make import make_verifier
from runtime.oci.build import import_layout
from runtime.oci.store import ImageStore
from runtime.oci.types import Image
from runtime.sandboxes.base import Mount, SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.process import ProcessProvider
from runtime.task import load_task
from runtime.tasks.images import with_images
from runtime.tasks.screened import Screened
from runtime.tasks.verify import screen, verify
from tests.oci_images import busybox, image
from tests.runtime.oci.conftest import RealRegistry
from tests.runtime.sandboxes.conftest import needs_bubblewrap
from tests.toolbox import require_command

pytestmark = [pytest.mark.sandbox, needs_bubblewrap]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageStore]:
    require_command("busybox", package="busybox-static")
    made = ImageStore(tmp_path_factory.mktemp("store"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def alpine(store: ImageStore, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Three layers: a static shell, a work directory with a file that the third layer removes, and one that it adds."""
    layout = tmp_path_factory.mktemp("layout") / "alpine"
    layers = [
        busybox(),
        {
            **{"w/kept": b"kept\n", "w/gone": b"x", "opt/tool": b"#!/bin/sh\necho tool\n"},
            "bin/python3": b"#!/bin/sh\necho a stranger\n",
        },
        {"w/.wh.gone": b"", "w/new": b"new\n"},
    ]
    image(layers, layout=layout, Env=["PATH=/bin:/opt", "MARK=of the image"], WorkingDir="/w")
    return import_layout(layout, store, reference="built:alpine")


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def provider(store: ImageStore, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Iterator[BubblewrapProvider]:
    made = BubblewrapProvider(state=tmp_path_factory.mktemp("state"), nested=True, store=store)
    yield made
    run(made.close())


def request_of(store: ImageStore, made: Image, **values: Any) -> SandboxRequest:
    return SandboxRequest(name="test", lower=store.tree(made, "/w"), workdir="/w", root=made, **values)


def shell(provider: BubblewrapProvider, request: SandboxRequest, *scripts: str, run: Run) -> list[str]:
    """What scripts of one box say."""

    async def work() -> list[str]:
        box = await provider.start(request)
        try:
            done = [await box.exec(["sh", "-c", script], timeout_sec=20) for script in scripts]
        finally:
            await box.stop()
        return [(one.stdout + one.stderr).decode().strip() for one in done]

    said: list[str] = run(work())
    return said


def test_a_box_is_the_image_and_nothing_of_the_host(
    store: ImageStore, alpine: Image, provider: BubblewrapProvider, run: Run
) -> None:
    said = shell(
        provider,
        request_of(store, alpine),
        "ls /w; cat /w/kept; tool; echo $MARK",
        "ls / /opt; ls /lib /usr 2>&1 | head -2; test -e /.host || echo none",
        "echo more > /w/made && echo x > /etc/new && rm /bin/ls && echo written",
        run=run,
    )
    assert said[0].split() == ["kept", "new", "kept", "tool", "of", "the", "image"]
    assert "none" in said[1] and "No such file" in said[1] and "liverl" in said[1]
    assert said[2] == "written"
    again = shell(provider, request_of(store, alpine), "ls /w /etc; cat /etc/hosts", run=run)[0]
    assert "made" not in again.split() and "localhost" in again, "what one box wrote the next has not"


def test_the_guest_needs_nothing_of_the_image(
    store: ImageStore, alpine: Image, provider: BubblewrapProvider, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "program.py").write_text(
        "import ssl, sqlite3, ctypes, json, sys\nprint(json.dumps([sys.prefix, sys.argv[1:]]))\n"
    )

    async def work() -> list[str]:
        mount = Mount(tmp_path / "program.py", "/opt/liverl/program.py")
        box = await provider.start(
            request_of(store, alpine, mounts=(mount,), env={"LD_LIBRARY_PATH": "/w", "PYTHON_VERSION": "2"})
        )
        try:
            await box.upload({"/w/libcrypto.so.3": b"not a library"})
            own = ["python3", "/opt/liverl/program.py", "x"]
            done = [await box.exec(argv, timeout_sec=20) for argv in (own, ["/opt/python/bin/python3", "-I", *own[1:]])]
            tree = await box.tree(["/w"], max_bytes=1 << 20)
        finally:
            await box.stop()
        assert {name for name, entry in tree.items() if isinstance(entry, bytes)} == {
            "/w/kept",
            "/w/new",
            "/w/libcrypto.so.3",
        }
        return [(one.stdout + one.stderr).decode().strip() for one in done]

    assert [json.loads(line) for line in run(work())] == [["/opt/python", ["x"]]] * 2


def test_no_way_out_and_no_way_at_the_guest(
    store: ImageStore, alpine: Image, provider: BubblewrapProvider, run: Run
) -> None:
    said = shell(
        provider,
        request_of(store, alpine),
        "mv /opt /opt2 && echo moved; mv /opt/python /x && echo moved; echo x > /opt/python/bin/python3 && echo wrote",
        "rm -rf /opt/liverl/guest 2>/dev/null; ls /opt/liverl/guest | head -1",
        "echo 1 > /proc/sys/kernel/panic && echo wrote; cat /proc/1/environ >/dev/null && echo read; true",
        "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; ls -l /proc/self/root/..",
        run=run,
    )
    assert "moved" not in said[0] and "wrote" not in said[0]
    assert said[1] != ""
    assert "wrote" not in said[2] and "read" not in said[2]
    assert "CapEff:\t0000000000000000" in said[3] and "NoNewPrivs:\t1" in said[3] and "Seccomp:\t2" in said[3]


@pytest.mark.parametrize(
    "trap", [{"opt": "/.host/tmp"}, {"opt": None, "opt/python": "/etc"}, {"proc": "/tmp"}, {"logs": b"a file"}], ids=str
)
def test_an_image_with_links_where_mounts_go_is_refused(
    store: ImageStore, provider: BubblewrapProvider, tmp_path: Path, trap: dict[str, Any], run: Run
) -> None:
    image([busybox(), {"w": None, **trap}], layout=tmp_path / "layout", WorkingDir="/w")
    made = import_layout(tmp_path / "layout", store, reference=f"built:{trap}")
    with pytest.raises(TrialError, match="where a box needs one"):
        shell(provider, request_of(store, made), "true", run=run)


TOML = 'schema_version = "1.1"\nverifier.env = {{OUT = "/logs/verifier/reward.txt"}}\n[environment]\n{}\n'


# A runner of a task's own, in an image that has a shell and no Python.
SUITE = """[metadata.liverl]
runner = "junit"
fail_to_pass = ["w::new"]
test_command = '''
grep -q new word || failed="<failure/>"
echo "<testsuite><testcase classname='w' name='new'>$failed</testcase></testsuite>" > $REPORT/w.xml
'''
"""


def task(folder: Path, environment: str, **files: str) -> Path:
    written = {
        "task.toml": TOML.format(environment),
        "instruction.md": "Write new into word.\n",
        "solution/solve.sh": "#!/bin/sh\necho new > word\n",
        "tests/test.sh": "#!/bin/sh\ngrep -q new word && grep -q here /marker && echo 1 > $OUT || echo 0 > $OUT\n",
        **files,
    }
    for name, text in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "environment").mkdir(exist_ok=True)
    return folder


@pytest.mark.consumers
def test_tasks_with_images_are_played_and_graded(
    registry: RealRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """One that names an image, one with loose files beside it, one with a Dockerfile that must be built."""
    for program, package in (("busybox", "busybox-static"), ("buildah", "buildah")):
        require_command(program, package=package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = registry.push(
        "base", image([busybox(), {"marker": b"here"}, {"w/word": b"old\n"}], Env=["PATH=/bin"], WorkingDir="/w")
    )
    dockerfile = f"FROM {base}\nRUN mkdir /built && echo here > /marker && echo old > /built/word\nWORKDIR /built\n"
    loose = task(tmp_path / "loose", f'docker_image = "{base}"', **{"environment/extra.txt": "loose\n"})
    folders = [
        task(tmp_path / "named", f'docker_image = "{base}"'),
        loose,
        task(tmp_path / "built", "", **{"environment/Dockerfile": dockerfile}),
        task(tmp_path / "absent", f'docker_image = "{registry.host}/nothing:1"'),
    ]
    problems: list[str] = []
    environment = Bubblewrap(images=Images(build=True))
    monkeypatch.setenv("SSL_CERT_FILE", str(registry.ca))
    tasks = with_images(
        [load_task(path) for path in folders], environment=environment, on_problem=problems.append, say=print
    )
    assert [made.id for made in tasks] == ["named", "loose", "built"], "\n".join(problems)
    assert len(problems) == 1 and "absent" in problems[0] and "has none" in problems[0]
    assert sorted(path.name for path in tasks[1].repository.iterdir()) == ["extra.txt", "word"]
    assert tasks[0].root is not None and tasks[0].root.reference.startswith(f"{registry.host}/base@sha256:")
    assert tasks[2].config.environment.workdir == "/built"

    async def work() -> Any:
        provider = BubblewrapProvider(state=tmp_path / "state", nested=True)
        verifier = make_verifier(environment, provider)
        try:
            return await verify(tasks, provider=provider, verifier=verifier, concurrency=2, memory_mib=512)
        finally:
            await verifier.close()
            await provider.close()

    report = run(work())
    assert report.ok, report.to_json()
    assert {check.reward for one in report.tasks for check in one.checks if check.name == "oracle"} == {1.0}


def test_screening_asks_twice_and_remembers(
    store: ImageStore,
    alpine: Image,
    provider: BubblewrapProvider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ImageStore().root.parent.mkdir(parents=True)
    ImageStore().root.symlink_to(store.root)
    store.name("docker.io/library/alpine:latest", alpine)
    score = "grep -q new word && echo 1 > $OUT || echo 0 > $OUT\n"
    drawn = "echo 0.$(printf %d 0x$(head -c 4 /proc/sys/kernel/random/uuid)) > $OUT"
    unsteady = f"grep -q new word && {drawn} || echo 0 > $OUT\n"
    steady = task(tmp_path / "steady", 'docker_image = "alpine"', **{"tests/test.sh": score})
    flaky = task(tmp_path / "flaky", 'docker_image = "alpine"', **{"tests/test.sh": unsteady})
    suite = task(tmp_path / "suite", f'docker_image = "alpine"\n{SUITE}')
    tasks = [load_task(path) for path in (steady, flaky, suite)]
    verifier = make_verifier(Bubblewrap(), provider)

    def screened(known: Screened) -> tuple[list[str], list[str]]:
        problems: list[str] = []
        work = screen(
            tasks,
            provider=provider,
            verifier=verifier,
            concurrency=2,
            memory_mib=512,
            on_problem=problems.append,
            screened=known,
        )
        return [one.id for one in run(work)], problems

    first, second = (Screened(tmp_path / "screened", limits="") for _ in range(2))
    usable, problems = screened(first)
    assert usable == ["steady", "suite"] and len(problems) == 1 and "flaky: its own solution scored" in problems[0], (
        problems
    )
    assert first.hits == 0
    assert screened(second) == (usable, problems) and second.hits == 3
    (steady / "tests" / "test.sh").write_text("#!/bin/sh\n" + score)
    tasks[0] = load_task(steady)
    third = Screened(tmp_path / "screened", limits="")
    assert screened(third)[0] == usable and third.hits == 2, "other tests are judged anew"
    run(verifier.close())


def test_plain_processes_are_no_box_of_an_image(store: ImageStore, alpine: Image, tmp_path: Path, run: Run) -> None:
    plain = ProcessProvider(state=tmp_path / "state")
    with pytest.raises(TrialError, match="not made of the task's own image"):
        run(plain.start(request_of(store, alpine)))
    run(plain.close())
