"""``liverl`` as a process of its own, forked from one that has imported it already: a start costs a tenth.

What such a process shares with a real one: arguments, folder, variables, streams, exit code, and that nothing it does
reaches the tests. What it does not show is the start itself; that is asked of real ones (``test_direct.py``,
``test_run.py`` and the first tests of ``test_cli.py`` in ``tests/liverl``).
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]


def liverl(
    *arguments: str, cwd: Path, env: Mapping[str, str], prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The ended command. ``prefix``: a command that the process runs under, as ``setpriv``."""
    server = _server(prefix)
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("out", "err")]
        request = {"arguments": arguments, "cwd": str(cwd), "env": dict(env), "streams": list(map(str, streams))}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the process that forks has ended: {server.process.wait()}"
        out, err = (path.read_text(encoding="utf-8") for path in streams)
    return subprocess.CompletedProcess(arguments, int(answer), out, err)


class _Server:
    def __init__(self, prefix: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin: IO[bytes] = self.process.stdin
        self.stdout: IO[bytes] = self.process.stdout

    def close(self) -> None:
        self.stdin.close()
        self.process.wait()
        self.stdout.close()


@functools.cache
def _server(prefix: tuple[str, ...]) -> _Server:
    server = _Server(prefix)
    atexit.register(server.close)
    return server


def _serve() -> None:
    """A line with a request, a fork, a line with its exit code."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    _import()
    for line in requests:
        if (child := os.fork()) == 0:
            os.close(requests.fileno())
            os.close(answers.fileno())
            _become(json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(f"{code}\n".encode())
        answers.flush()


def _import() -> None:
    """What commands import when they are called."""
    from liverl.cli import build_app

    for name in (
        "compiler.pipeline",
        "compiler.registry",
        "compiler.schema",
        "liverl.compiling",
        "runtime.launch.local",
    ):
        importlib.import_module(name)
    build_app()


def _become(request: dict[str, Any]) -> None:
    """This process is the command from here on."""
    from liverl.cli import main

    code: Any = 70
    try:
        for number, path in enumerate(request["streams"], 1):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        tempfile.tempdir = None
        sys.argv = [str(ROOT / "liverl" / "__main__.py"), *request["arguments"]]
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        # Never back into the loop, whatever happened.
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve()
