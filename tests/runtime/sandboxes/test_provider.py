"""Which provider a machine gets, images, and the forwarder under uvloop."""

import asyncio
import io
import logging
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import uvloop
from pydantic import TypeAdapter

from runtime.config import (
    LACKING,
    Bubblewrap,
    EcsCluster,
    Environment,
    HarborEnvironment,
    Imported,
    ImportedProvider,
    KubernetesCluster,
)
from runtime.config.environment import Defence
from runtime.errors import MachineError, UserError
from runtime.sandboxes import bwrap, images, make_provider
from runtime.sandboxes.base import Capabilities, SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.defences import OF_THE_TASK, OF_THE_VERIFIER, provider_defences
from runtime.sandboxes.docker.provider import DockerProvider
from runtime.sandboxes.ecs import EcsProvider
from runtime.sandboxes.harbor.provider import HarborProvider
from runtime.sandboxes.kubernetes import KubernetesProvider
from runtime.sandboxes.process import PrivatePaths, ProcessProvider

from .conftest import needs_bubblewrap


@needs_bubblewrap
def test_bubblewrap_where_the_machine_can(tmp_path: Path) -> None:
    assert isinstance(make_provider(Bubblewrap(require_isolation=True), state=tmp_path), BubblewrapProvider)


def test_plain_processes_with_a_loud_warning_where_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bwrap, "why_impossible", lambda: "the program bwrap is not installed")
    with caplog.at_level(logging.WARNING):
        provider = make_provider(Bubblewrap(), state=tmp_path)
    assert isinstance(provider, ProcessProvider) and provider.capabilities.isolation == "none"
    assert "NO ISOLATION" in caplog.text and "apt-get install -y bubblewrap" in caplog.text
    with pytest.raises(MachineError, match="not installed") as caught:
        make_provider(Bubblewrap(require_isolation=True), state=tmp_path)
    assert caught.value.fix == "apt-get install -y bubblewrap"


class OwnBoxes(ProcessProvider):
    """A provider of somebody else's."""

    def __init__(self, *, state: Path, greeting: str) -> None:
        super().__init__(state=state)
        self.greeting = greeting


def test_a_provider_of_ones_own(tmp_path: Path) -> None:
    settings = ImportedProvider(import_path=f"{__name__}:OwnBoxes", kwargs={"greeting": "hello"})
    provider = make_provider(Imported(imported=settings), state=tmp_path)
    assert getattr(provider, "greeting") == "hello"  # noqa: B009
    with pytest.raises(MachineError, match="network_off"):
        make_provider(Imported(imported=settings, required_defences=("network_off",)), state=tmp_path)
    for path, kwargs in ((f"{__name__}:Nothing", {}), (settings.import_path, {"greting": "x"})):
        wrong = ImportedProvider(import_path=path, kwargs=kwargs)
        with pytest.raises(UserError, match=r"environment\.imported\.import_path"):
            make_provider(Imported(imported=wrong), state=tmp_path)


def test_bubblewrap_that_is_not_on_the_path_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    bwrap.why_impossible.cache_clear()
    try:
        assert bwrap.why_impossible() == "the program bwrap is not installed"
    finally:
        bwrap.why_impossible.cache_clear()


def test_a_state_folder_that_cannot_be_made_names_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError) as caught:
        make_provider(Bubblewrap(), state=tmp_path / "file" / "state")
    assert str(tmp_path) in caught.value.fix


def test_a_phase_that_cannot_be_held_to_its_network_ends_the_run_at_its_start(tmp_path: Path) -> None:
    for phase in ({"agent": "model"}, {"verifier": "none"}):
        wanted = TypeAdapter(Environment).validate_python({"type": "process", "network": phase})
        with pytest.raises(MachineError, match=next(iter(phase))):
            make_provider(wanted, state=tmp_path / "state")
    free = TypeAdapter(Environment).validate_python({"type": "process", "network": {"agent": "any", "verifier": "any"}})
    assert make_provider(free, state=tmp_path / "state").capabilities.isolation == "none"


def test_private_paths_map_whole_components() -> None:
    paths = PrivatePaths({"/app": Path("/x/app"), "/opt/liverl": Path("/x/l"), "/opt/liverl/agent.py": Path("/a.py")})
    assert paths.inside("/app") == "/x/app" and paths.inside("/app/f") == "/x/app/f"
    assert paths.inside("/apple") == "/apple" and paths.inside("see /app") == "see /app"
    assert paths.inside("/opt/liverl/agent.py") == "/a.py" and paths.inside("/opt/liverl/t") == "/x/l/t"
    assert paths.inside("/app:/usr/bin:/opt/liverl") == "/x/app:/usr/bin:/x/l"
    assert paths.inside("http://127.0.0.1:80/app") == "http://127.0.0.1:80/app"
    assert paths.outside(paths.inside("/app/f")) == "/app/f"


@pytest.mark.parametrize("bad", ["", "pytest", "pytest>=8", "pytest==8.4.2; rm -rf /", "-r x", "git+https://x"])
def test_an_image_is_a_list_of_exact_pins(bad: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exact pins"):
        images.prepare(bad, cache=tmp_path)


def test_no_code_of_a_package_runs_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task from elsewhere names the pins of its image; a source distribution would run its ``setup.py`` here."""
    setup = (
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='x', version='1.0')\n"
    )
    (tmp_path / "index").mkdir()
    with tarfile.open(tmp_path / "index" / "x-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("x-1.0/setup.py", setup), ("x-1.0/PKG-INFO", "Name: x\nVersion: 1.0\n")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(MachineError, match="wheels only"):
        images.prepare("x==1.0", cache=tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


def test_an_image_is_found_again_by_all_that_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(pins: list[str], folder: Path) -> None:
        folder.mkdir()
        (folder / ".complete").touch()

    monkeypatch.setattr(images, "_install", install)
    found = [images.prepare("a==1 b==2", cache=tmp_path), images.prepare("b==2  a==1", cache=tmp_path)]
    assert found[0] == found[1]
    found.append(images.prepare("a==1 b==3", cache=tmp_path))
    monkeypatch.setattr(images.sysconfig, "get_platform", lambda: "linux-riscv64")
    found.append(images.prepare("a==1 b==2", cache=tmp_path))
    monkeypatch.setattr(sys.implementation, "cache_tag", "cpython-399")
    found.append(images.prepare("a==1 b==2", cache=tmp_path))
    assert len(set(found)) == 4


@pytest.mark.network
def test_an_image_is_installed_once(tmp_path: Path) -> None:
    folder = images.prepare("iniconfig==2.1.0", cache=tmp_path)
    assert (folder / "iniconfig" / "__init__.py").is_file()
    before = folder.stat().st_mtime_ns
    assert images.prepare("iniconfig==2.1.0  ", cache=tmp_path) == folder and folder.stat().st_mtime_ns == before
    with pytest.raises(MachineError, match="pip") as caught:
        images.prepare("iniconfig==0.0.0.1", cache=tmp_path)
    assert "pip install" in caught.value.fix
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


@pytest.mark.sandbox
@needs_bubblewrap
def test_everything_runs_on_uvloop_too(tmp_path: Path, repository: Path) -> None:
    """Ray's workers use it; its transports are no subclasses of asyncio's."""
    fetch = "import os, urllib.request as r; print(r.urlopen(os.environ['URL'] + '/x', timeout=5).read().decode())"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async def main() -> bytes:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        provider = BubblewrapProvider(state=tmp_path / "state")
        forward = server.sockets[0].getsockname()
        sandbox = await provider.start(SandboxRequest(name="x", lower=repository, forward=forward))
        result = await sandbox.exec(["python3", "-c", fetch], env={"URL": sandbox.proxy_url or ""}, timeout_sec=20)
        await provider.close()
        server.close()
        return result.stdout

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == b"hello\n"


ECS = EcsCluster(cluster="c", image="i:1", region="r", subnets=("s",), security_groups=("g",))
DECLARED: dict[str, Callable[[Path], Capabilities]] = {
    "bubblewrap": lambda state: BubblewrapProvider(state=state).capabilities,
    "docker": lambda state: DockerProvider.capabilities,
    "process": lambda state: ProcessProvider(state=state).capabilities,
    "kubernetes": lambda state: KubernetesProvider(KubernetesCluster(image="i:1"), run="run").capabilities,
    "ecs": lambda state: EcsProvider(ECS, run="run").capabilities,
    "harbor": lambda state: HarborProvider(HarborEnvironment(environment="docker")).capabilities,
}


@pytest.mark.parametrize("kind", DECLARED)
def test_the_contract_knows_what_each_kind_of_sandboxes_lacks(kind: str, tmp_path: Path) -> None:
    """``LACKING`` is read before there is a provider. On some machines bubblewrap declares less than on others."""
    capabilities = DECLARED[kind](tmp_path)
    by_second_user = {"solution_user", "reward_file"}
    apart = capabilities.second_user or capabilities.second_box
    declared = {*provider_defences(capabilities), *(by_second_user if apart else ())}
    known = {*get_args(Defence)} - OF_THE_VERIFIER - (OF_THE_TASK - by_second_user)
    assert declared <= known
    assert known - declared == LACKING[kind] if kind in LACKING else kind == "bubblewrap"
