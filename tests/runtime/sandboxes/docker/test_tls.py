"""An engine behind TLS with certificates on both sides: who is let in, and in which words the others are refused."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtime.config import Docker
from runtime.errors import MachineError, Termination, TrialError
from runtime.sandboxes import make_provider
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.docker.connection import connection, import_sdk
from tests.certificates import Authority
from tests.docker_engine import BASE, Engine, free_port

from .conftest import provider

pytestmark = [pytest.mark.consumers, pytest.mark.sandbox]


def refusal(url: str, **settings: object) -> MachineError:
    with pytest.raises(MachineError) as caught:
        connection(url, **settings).client(import_sdk())  # type: ignore[arg-type]
    return caught.value


def test_every_way_of_not_trusting_each_other_has_its_words(engine: Engine, tmp_path: Path) -> None:
    good = str(engine.root / "certs")
    stranger = str(Authority(tmp_path / "other").issue(tmp_path / "stranger", "DNS:client"))
    elsewhere = f"tcp://127.0.0.2:{engine.port}"
    assert "for another machine" in str(refusal(elsewhere, certificates=good))
    assert "not to be trusted" in str(refusal(engine.tls, certificates=stranger))
    ours = Path(stranger) / "ca.pem"
    ours.write_bytes((engine.root / "certs" / "ca.pem").read_bytes())
    assert "refuses our certificate" in str(refusal(engine.tls, certificates=stranger))
    (Path(stranger) / "key.pem").write_text("no key")
    assert "cannot be used" in str(refusal(engine.tls, certificates=stranger))
    (Path(stranger) / "key.pem").unlink()
    lacking = refusal(engine.tls, certificates=stranger)
    assert "lacks key.pem" in str(lacking) and "docker_plaintext" in lacking.fix
    assert "speaks TLS" in str(refusal(engine.tls, plaintext=True))
    assert "refused" in str(refusal(f"tcp://127.0.0.1:{free_port()}", certificates=good))
    for nowhere in ("ssh://host", "tcp://host", "http://127.0.0.1:2375"):
        assert "not an address" in str(refusal(nowhere, certificates=good))


def test_an_engine_without_tls(engine: Engine) -> None:
    """A forwarder to the engine's socket plays the engine that was started with a bare ``-H tcp://``."""
    relay = "import socket, sys, threading\n" + (
        "def pump(a, b):\n"
        "    while data := a.recv(65536): b.sendall(data)\n"
        "    b.shutdown(socket.SHUT_WR)\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True)\n"
        "while True:\n"
        "    one, _ = server.accept()\n"
        "    two = socket.socket(socket.AF_UNIX); two.connect(sys.argv[1])\n"
        "    for pair in ((one, two), (two, one)): threading.Thread(target=pump, args=pair, daemon=True).start()\n"
    )
    command = [sys.executable, "-c", relay, engine.url.removeprefix("unix://")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            url = f"tcp://127.0.0.1:{int(process.stdout.readline())}"
            assert "does not speak TLS" in str(refusal(url, certificates=str(engine.root / "certs")))
            client = connection(url, plaintext=True).client(import_sdk())
            assert client.images.get(BASE)
            client.close()
        finally:
            process.kill()


def test_the_spec_reaches_the_engine_and_so_do_dockers_own_variables(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: asyncio.Runner
) -> None:
    settings = {"docker_host": engine.tls, "docker_certificates": str(engine.root / "certs")}
    with monkeypatch.context() as variables:
        variables.setenv("HOME", str(tmp_path))
        variables.delenv("DOCKER_CERT_PATH", raising=False)
        with pytest.raises(MachineError, match="everybody on the way root"):
            make_provider(Docker(docker_host=engine.tls, base_image=BASE), state=tmp_path / "state")
        variables.setenv("DOCKER_HOST", engine.tls)
        variables.setenv("DOCKER_CERT_PATH", settings["docker_certificates"])
        variables.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # not on the way to an engine
        made = make_provider(Docker(base_image=BASE), state=tmp_path / "state")
        loop.run(made.close())
    made = make_provider(Docker(base_image=BASE, **settings), state=tmp_path / "state")  # type: ignore[arg-type]
    loop.run(made.close())


def test_streams_through_the_tunnel(engine: Engine, loop: asyncio.Runner, tmp_path: Path) -> None:
    """Many at once, large ones, half-closed ones, clients that leave and clients that do not read."""
    (tmp_path / "lower").mkdir()
    script = """
import os, socket, sys, threading, time
port = 8080
def echo(size, results):
    with socket.create_connection(("127.0.0.1", port), 20) as s:
        data = os.urandom(size)
        threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()
        got = b"".join(iter(lambda: s.recv(65536), b""))
        results.append(got == data)
results = []
for _ in range(3):
    with socket.create_connection(("127.0.0.1", port), 20) as s: s.sendall(b"gone")
threads = [threading.Thread(target=echo, args=(size, results)) for size in [10, 3 << 20, 0, 100000] * 4]
for t in threads: t.start()
for t in threads: t.join()
print(results.count(True), len(results))
deaf = socket.create_connection(("127.0.0.1", port), 20)
deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
deaf.settimeout(20)
try:
    for _ in range(60): deaf.sendall(bytes(1 << 20))
    print("endless")
except OSError:
    print("cut")
more = []
echo(1000, more)
print(more)
"""

    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
                writer.write_eof()
            except ConnectionError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        made = provider(engine, tmp_path / "state", tls=True)
        target = server.sockets[0].getsockname()
        box = await made.start(SandboxRequest(name="box", lower=tmp_path / "lower", forward=target))
        result = await box.exec(["python3", "-c", script], timeout_sec=100)
        assert result.stdout.decode().split("\n")[:3] == ["16 16", "cut", "[True]"], result
        await made.close()
        server.close()

    loop.run(main())


@pytest.mark.parametrize("end", ["killed", "cut"])
def test_a_box_ends_with_its_connection(engine: Engine, loop: asyncio.Runner, tmp_path: Path, end: str) -> None:
    (tmp_path / "lower").mkdir()

    async def main() -> None:
        made = provider(engine, tmp_path / "state", tls=True)
        box = await made.start(SandboxRequest(name="box", lower=tmp_path / "lower"))
        running = asyncio.ensure_future(box.exec(["sh", "-c", "setsid sleep 77 & sleep 77"], timeout_sec=90))
        await asyncio.sleep(0.5)
        if end == "killed":
            await asyncio.to_thread(engine.docker, "kill", engine.docker("ps", "-q"))
        else:
            transport = box._channel._transport
            assert transport is not None
            transport.abort()
        with pytest.raises(TrialError) as caught:
            await running
        assert caught.value.termination is Termination.SANDBOX_LOST and caught.value.handling.retry
        for _ in range(100):
            if not await asyncio.to_thread(engine.docker, "ps", "-q"):
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("it outlives its connection")
        await made.close()
        assert engine.docker("ps", "-aq") == ""

    loop.run(main())


OWNER = """
import asyncio, sys
from pathlib import Path
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.docker.connection import connection
from runtime.sandboxes.docker.provider import DockerProvider
async def main(url, certificates, base, folder):
    provider = DockerProvider(connection(url, certificates=certificates), state=Path(folder) / "state", base=base)
    box = await provider.start(SandboxRequest(name="box", lower=Path(folder) / "lower"))
    print("ready", flush=True)
    await box.exec(["sleep", "99"], timeout_sec=100)
asyncio.run(main(*sys.argv[1:]))
"""


def test_nothing_runs_on_after_the_owner_was_killed(engine: Engine, loop: asyncio.Runner, tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    command = [sys.executable, "-c", OWNER, engine.tls, str(engine.root / "certs"), BASE, str(tmp_path)]
    root = Path(__file__).parents[4]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONSAFEPATH": ""}) as owner:
        assert owner.stdout is not None
        watchdog = threading.Timer(60, owner.kill)
        watchdog.start()
        assert owner.stdout.readline() == b"ready\n"
        watchdog.cancel()
        assert engine.docker("ps", "-q")
        owner.kill()
    next_one = provider(engine, tmp_path / "state", tls=True)  # what the next start does first
    assert engine.docker("ps", "-aq") == ""
    loop.run(next_one.close())
