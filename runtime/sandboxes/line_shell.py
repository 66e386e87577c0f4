"""A shell inside of a box, line by line: for people who look into it, over every backend.

Each line is a command of its own; the folder is remembered, variables and background jobs are not. Knows nothing of
where lines come from.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TextIO

from runtime.sandboxes.base import Sandbox

COMMAND_SEC = 3600.0
_SCRIPT = """IFS= read -r folder; cd -- "$folder" || exit 126
eval "$1"
code=$?
printf '\\n%s%s' "$2" "$PWD" >&2
exit $code"""
_MARK = "\x01liverl-folder\x01"


async def line_shell(
    sandbox: Sandbox,
    *,
    workdir: str,
    read: Callable[[str], Awaitable[str | None]],
    write: Callable[[str], None],
) -> int:
    """Run lines until ``read`` (given a prompt) says None or ``exit``; how many were run. What they print goes to
    ``write``."""
    # Told by stdin: a backend may know folders by other names than it is told, and what it answers is its own name.
    count, folder = 0, "."
    while (line := await read(f"{workdir if folder == '.' else folder} $ ")) is not None:
        if line.strip() in ("exit", "quit", "logout"):
            break
        if not line.strip():
            continue
        count += 1
        try:
            argv = ["sh", "-c", _SCRIPT, "sh", line, _MARK]
            stdin = f"{folder}\n".encode(errors="surrogateescape")
            done = await sandbox.exec(argv, cwd=workdir, stdin=stdin, timeout_sec=COMMAND_SEC)
        except TimeoutError:
            write(f"[ended after {COMMAND_SEC:.0f} s]\n")
            continue
        errors, mark, rest = done.stderr.decode(errors="replace").rpartition(_MARK)
        if mark:
            folder = rest
        else:
            errors = rest
        write(done.stdout.decode(errors="replace"))
        write(errors.removesuffix("\n"))
        if done.exit_code:
            write(f"[{done.exit_code}]\n")
    return count


def lines_of(stream: TextIO, show: Callable[[str], None]) -> Callable[[str], Awaitable[str | None]]:
    """A ``read`` for ``line_shell``. A thread of its own waits for each line, which an interrupt need not wait for."""

    async def read(prompt: str) -> str | None:
        show(prompt)
        loop, answer = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def wait() -> None:
            line = stream.readline()
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: None if answer.done() else answer.set_result(line))

        threading.Thread(target=wait, daemon=True, name="stdin").start()
        line: str = await answer
        return line.rstrip("\n") if line else None

    return read
