"""The Sandbox protocol, the same on every provider: commands, transfers, limits, ends."""

import asyncio
from pathlib import Path

import pytest

from runtime.errors import Termination, TrialError
from runtime.sandboxes.base import Mount, Sandbox, SandboxProvider, SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.process import ProcessProvider

from .conftest import Run

pytestmark = pytest.mark.sandbox


def test_a_command_runs_in_a_private_copy(
    run: Run, provider: SandboxProvider, box_request: SandboxRequest, repository: Path
) -> None:
    async def main() -> None:
        sandbox = await provider.start(box_request)
        assert isinstance(sandbox, Sandbox) and sandbox.proxy_url is None
        script = 'cat; echo "$GREETING" >&2; echo changed > calc.py; ls; exit 3'
        result = await sandbox.exec(
            ["sh", "-c", script], stdin=b"from the host\n", env={"GREETING": "hello"}, timeout_sec=10
        )
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"from the host\ncalc.py\ntests\n", b"hello\n")
        assert await sandbox.download(["/app/calc.py"]) == {"/app/calc.py": b"changed\n"}
        await sandbox.stop()
        await sandbox.stop()

    run(main())
    assert "return a - b" in (repository / "calc.py").read_text()


def test_output_is_bounded_and_codes_are_told_apart(
    run: Run, provider: SandboxProvider, box_request: SandboxRequest
) -> None:
    async def main() -> None:
        sandbox = await provider.start(box_request)
        result = await sandbox.exec(["sh", "-c", "yes | head -c 3000000"], timeout_sec=10, max_output=1000)
        assert (result.exit_code, len(result.stdout)) == (0, 1000)
        assert (await sandbox.exec(["sh", "-c", "kill -9 $$"], timeout_sec=10)).exit_code == -9
        assert (await sandbox.exec(["no-such-program"], timeout_sec=10)).exit_code == 127
        assert (await sandbox.exec(["true"], cwd="/no/such", timeout_sec=10)).exit_code == 126
        await sandbox.stop()

    run(main())


def test_a_timeout_kills_the_process_group(run: Run, provider: SandboxProvider, box_request: SandboxRequest) -> None:
    async def main() -> None:
        sandbox = await provider.start(box_request)
        with pytest.raises(TimeoutError):
            await sandbox.exec(["sh", "-c", "sleep 50 & echo $! > /app/pid; wait"], timeout_sec=0.3)
        result = await sandbox.exec(["sh", "-c", "sleep 0.1; kill -0 $(cat pid)"], timeout_sec=5)
        assert result.exit_code != 0
        await sandbox.stop()

    run(main())


def test_a_daemon_that_keeps_the_pipes_does_not_hang_exec_and_dies_with_the_sandbox(
    run: Run, provider: SandboxProvider, box_request: SandboxRequest, tmp_path: Path
) -> None:
    async def main() -> None:
        sandbox = await provider.start(box_request)
        daemon = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nwhile True: time.sleep(0.05); print('x')"
        result = await sandbox.exec(["python3", "-c", daemon, "liverl-test-daemon"], timeout_sec=20)
        assert result.exit_code == 0  # who waits for the pipe runs into the timeout
        await asyncio.sleep(0.2)
        assert daemons() == 1
        await sandbox.stop()
        assert daemons() == 0

    run(main())


def daemons() -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += b"liverl-test-daemon" in path.read_bytes().split(b"\0")
        except OSError:
            continue
    return found


def test_commands_run_side_by_side(run: Run, provider: SandboxProvider, box_request: SandboxRequest) -> None:
    async def main() -> None:
        sandbox = await provider.start(box_request)
        # Each ends when all have begun.
        meet = "mkdir -p here; : > here/$0; while [ $(ls here | wc -l) -lt 5 ]; do sleep 0.05; done; echo $0"
        results = await asyncio.gather(
            *(sandbox.exec(["sh", "-c", meet, str(number)], timeout_sec=30) for number in range(5))
        )
        assert [result.stdout for result in results] == [f"{i}\n".encode() for i in range(5)]
        await sandbox.stop()

    run(main())


def test_transfers(run: Run, provider: SandboxProvider, box_request: SandboxRequest) -> None:
    async def main() -> None:
        sandbox = await provider.start(box_request)
        big = bytes(range(256)) * 8192
        await sandbox.upload({"/app/new/deep/file.bin": big, "/tmp/empty": b""}, mode=0o755)
        found = await sandbox.download(["/app/new", "/tmp/empty", "/app/missing"])
        assert found == {"/app/new/deep/file.bin": big, "/tmp/empty": b""}
        assert (await sandbox.exec(["test", "-x", "/app/new/deep/file.bin"], timeout_sec=5)).exit_code == 0
        with pytest.raises(TrialError, match="more than 1000 bytes"):
            await sandbox.download(["/app/new"], max_bytes=1000)
        for bad in ("relative", "/app/../etc/x", "/"):
            with pytest.raises(TrialError, match="not an absolute path"):
                await sandbox.upload({bad: b""})
        await sandbox.stop()

    run(main())


def test_planted_links_are_followed_neither_in_nor_out(
    run: Run, provider: SandboxProvider, box_request: SandboxRequest, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("the host's")

    async def main() -> None:
        sandbox = await provider.start(box_request)
        plant = "ln -s $0 link; ln -s $(dirname $0) folder; mkfifo pipe; ln calc.py hard"
        result = await sandbox.exec(["sh", "-c", plant, str(tmp_path / "secret")], timeout_sec=5)
        assert result.exit_code == 0, result.stderr
        found = await sandbox.download(["/app", "/app/folder/secret", "/app/link"])
        assert sorted(found) == ["/app/calc.py", "/app/hard", "/app/tests/test_calc.py"]
        await sandbox.upload({"/app/link": b"new"})
        with pytest.raises(TrialError) as caught:
            await sandbox.upload({"/app/folder/secret": b"overwritten"})
        assert caught.value.termination is Termination.SANDBOX_LOST
        assert await sandbox.download(["/app/link"]) == {"/app/link": b"new"}
        await sandbox.stop()

    run(main())
    assert (tmp_path / "secret").read_text() == "the host's"


def test_mounts_and_the_environment(run: Run, provider: SandboxProvider, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(
        "import os, sys; print(os.environ['LIVERL_WORKDIR'], sys.argv[1], os.getcwd())\n"
    )
    program = Mount(tmp_path / "agent.py", "/opt/liverl/agent.py")
    request = SandboxRequest(name="m", lower=repository, workdir="/testbed", mounts=(program,), env={"A": "b"})

    async def main() -> None:
        sandbox = await provider.start(request)
        argv = ["python3", "-I", "-S", "/opt/liverl/agent.py", "/testbed/calc.py"]
        result = await sandbox.exec(argv, timeout_sec=20)
        workdir, argument, cwd = result.stdout.decode().split()
        assert cwd == workdir and argument == f"{workdir}/calc.py"
        kit = "import os, sys; sys.path.insert(0, os.environ['LIVERL_MOUNT']); from testkit import mini"
        use = f"{kit}; print(len(mini.run(os.environ['LIVERL_WORKDIR'])['tests']), os.environ['A'])"
        assert (await sandbox.exec(["python3", "-I", "-S", "-c", use], timeout_sec=20)).stdout == b"3 b\n"
        await sandbox.stop()

    run(main())


def test_the_forwarded_port_is_reachable(run: Run, provider: SandboxProvider, repository: Path) -> None:
    fetch = """
import os, socket, urllib.parse
url = urllib.parse.urlsplit(os.environ['URL'])
with socket.create_connection((url.hostname, url.port), 5) as s:
    s.sendall(b'x' * 300000); s.shutdown(socket.SHUT_WR)
    print(sum(len(part) for part in iter(lambda: s.recv(65536), b'')))
"""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(-1))
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        host = server.sockets[0].getsockname()
        sandbox = await provider.start(SandboxRequest(name="f", lower=repository, forward=host[:2]))
        assert sandbox.proxy_url is not None
        for _ in range(3):
            result = await sandbox.exec(["python3", "-c", fetch], env={"URL": sandbox.proxy_url}, timeout_sec=20)
            assert result.stdout == b"300000\n", result.stderr
        await sandbox.stop()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_missing_folder_is_a_setup_failure_that_leaves_nothing(
    run: Run, provider: SandboxProvider, tmp_path: Path
) -> None:
    async def main() -> None:
        with pytest.raises(TrialError) as caught:
            await provider.start(SandboxRequest(name="x", lower=tmp_path / "nowhere"))
        assert caught.value.termination is Termination.ENV_SETUP_FAILED
        assert "nowhere" in str(caught.value)

    run(main())


def test_a_stopped_sandbox_is_lost_for_those_who_wait(
    run: Run, provider: SandboxProvider, box_request: SandboxRequest
) -> None:
    async def main() -> None:
        sandbox = await provider.start(box_request)
        waiting = asyncio.ensure_future(sandbox.exec(["sleep", "30"], timeout_sec=40))
        await asyncio.sleep(0.05)
        await sandbox.stop()
        with pytest.raises(TrialError) as caught:
            await waiting
        assert caught.value.termination is Termination.SANDBOX_LOST

    run(main())


def test_close_stops_what_still_runs(run: Run, provider: SandboxProvider, box_request: SandboxRequest) -> None:
    async def main() -> None:
        boxes = await asyncio.gather(*(provider.start(box_request) for _ in range(4)))
        sleeping = [asyncio.ensure_future(box.exec(["sleep", "300"], timeout_sec=400)) for box in boxes]
        await asyncio.sleep(0.1)
        await provider.close()
        await provider.close()
        ends = await asyncio.gather(*sleeping, return_exceptions=True)
        assert [getattr(end, "termination", end) for end in ends] == [Termination.SANDBOX_LOST] * 4

    run(main())


def test_capabilities_are_honest(provider: SandboxProvider) -> None:
    isolated = not isinstance(provider, ProcessProvider)
    assert (provider.capabilities.isolation == "none") is not isolated
    assert provider.capabilities.network_off is isolated


PROGRAMS = {
    "prints": "import os, sys\nprint(sys.argv[1:], sys.stdin.read(), os.environ['A'], os.getcwd(), __file__)\n",
    "exits with a number": "import sys\nsys.exit(7)\n",
    "exits with a text": "import sys\nsys.exit('what went wrong')\n",
    "raises": "import sys\nsys.path.insert(0, sys.argv[1])\ndef f(): raise ValueError('no')\nf()\n",
    "leaves by the back door": "import os\nos._exit(9)\n",
    "has last words": "import atexit\natexit.register(print, 'bye')\nprint('hello', end=' ')\n",
    "runs threads": "import threading\nthreading.Thread(target=lambda: print('t')).start()\n",
    "imports": "import guest\n",
    "runs others": "import subprocess\nprint(subprocess.run(['echo', 'x'], capture_output=True).stdout)\n",
    "is wrong": "def f(:\n",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_mounted_program_behaves_as_in_a_new_interpreter(
    run: Run, isolated: BubblewrapProvider, repository: Path, tmp_path: Path, name: str
) -> None:
    """``python3 -I -S /opt/liverl/...`` is forked; ``-u`` is not a flag that the short cut knows."""
    (tmp_path / "agent.py").write_text(PROGRAMS[name])
    request = SandboxRequest(name="p", lower=repository, mounts=(Mount(tmp_path / "agent.py", "/opt/liverl/agent.py"),))

    async def main() -> None:
        sandbox = await isolated.start(request)
        results = []
        for flags in (["-I", "-S", "-u"], ["-I", "-S"]):
            argv = ["python3", *flags, "/opt/liverl/agent.py", "one", "two"]
            results.append(await sandbox.exec(argv, stdin=b"in", env={"A": "b"}, timeout_sec=20))
        plain, forked = results
        assert (forked.exit_code, forked.stdout) == (plain.exit_code, plain.stdout)
        if name != "raises":  # the forked traceback has frames of the supervisor above
            assert forked.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]

    run(main())
