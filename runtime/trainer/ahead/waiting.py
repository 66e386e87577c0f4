"""``python -m runtime.trainer.ahead.waiting KIND NUMBER MODULE...``: import, wait, and become what somebody asks for.

The other half of ``claim``. Knows no kind: what is imported comes by its arguments.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import resource
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.trainer.ahead import claim
from runtime.trainer.startup import WAITING

RESERVED = 512
"""Numbers of files kept free: those handed over must keep theirs, which are written into what is to be run."""
IDLE_SEC = 3600.0
_PLUGINS = "VERL_USE_EXTERNAL_MODULES"
_DRIVER = re.compile(r"/dev/nvidia\d+")
_COMMAND = "-c"
_AT_IMPORT = re.compile(r"VLLM_(?!LOGGING_LEVEL|WORKER_MULTIPROC_METHOD|ALLOW_RUNTIME)")


def main(kind: str, number: str, modules: Sequence[str]) -> None:
    held = _reserve()
    place = Path(os.environ[claim.PLACE])
    listening = socket.socket(socket.AF_UNIX)
    partial = place / f".{kind}-{number}"
    listening.bind(str(partial))
    listening.listen(1)
    partial.rename(place / f"{kind}-{number}{claim.FREE}")
    for module in modules:
        importlib.import_module(module)
    if _holds_a_gpu() and "," in os.environ.get("CUDA_VISIBLE_DEVICES", ","):
        raise SystemExit("the imports have opened a GPU: which one this process is for is not known yet")
    listening.settimeout(IDLE_SEC)
    connection, _ = listening.accept()
    listening.close()
    order, files = _receive(connection)
    _check(order["environment"])
    connection.sendall(claim.READY)
    if connection.recv(1) != claim.GO:
        raise SystemExit("whoever took this process has given it up")
    _become(order, files, held)
    threading.Thread(target=_end_with, args=(connection,), name="end-with", daemon=True).start()
    code = 1
    try:
        code = _spawned(order["arguments"])
    finally:
        connection.send(bytes([code & 255]))
    sys.exit(code)


def _reserve() -> list[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4 * RESERVED:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * RESERVED, hard), hard))
    nothing = os.open(os.devnull, os.O_RDONLY)
    held = [nothing]
    while held[-1] < RESERVED:
        held.append(os.dup(nothing))
    return held


def _holds_a_gpu() -> bool:
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if _DRIVER.fullmatch(str(file.readlink())):
                return True
    return False


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, files, _, _ = socket.recv_fds(connection, claim.HEADER.size, RESERVED)
    (size,) = claim.HEADER.unpack(head)
    body = b""
    while len(body) < size:
        more = connection.recv(size - len(body))
        if not more:
            raise SystemExit("whoever took this process is gone")
        body += more
    return json.loads(body.decode("utf-8", "surrogateescape")), files


def _check(environment: Mapping[str, str]) -> None:
    """Some of vLLM's variables count when it is imported: one that is asked for, and was not there, ends this."""
    for name, value in environment.items():
        if _AT_IMPORT.match(name) and value not in ("", "0", os.environ.get(name)):
            raise SystemExit(f"{name}={value} came too late")


def _become(order: dict[str, Any], files: list[int], held: list[int]) -> None:
    """Everything in which a process differs from another one, but for its number."""
    if any(number > RESERVED for number in order["files"]):
        raise SystemExit("a file's number is too high")
    Path("/proc/self/oom_score_adj").write_text(order["score"], encoding="ascii")
    os.chdir(order["folder"])
    sys.stdout.flush()
    sys.stderr.flush()
    for source, target in zip(files, order["files"], strict=True):
        os.dup2(source, target, inheritable=target < 3)
        os.close(source)
    for number in set(held) - set(order["files"]):
        os.close(number)
    os.environ.clear()
    os.environ.update(order["environment"])
    for name in os.environ.get(_PLUGINS, "").split(","):
        taken_up = getattr(sys.modules.get(name), "taken_up", None)
        if taken_up is not None:
            taken_up()


def _end_with(connection: socket.socket) -> None:
    """Who stands in for this process to its parent was killed, and that was meant for this one."""
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _spawned(arguments: list[str]) -> int:
    at = arguments.index(_COMMAND)
    sys.argv = [_COMMAND, *arguments[at + 2 :]]
    try:
        exec(compile(arguments[at + 1], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    os.environ[WAITING] = "1"
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
