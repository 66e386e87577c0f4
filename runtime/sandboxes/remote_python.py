"""``remote_shell.py`` for boxes of a task's own image, which may have no shell: the same orders for the program that
was brought there with its Python (``guest/remote.py``). Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.sandboxes import bwrap
from runtime.sandboxes.remote_shell import MARK, archive_limit

_BOOT = f"import sys; sys.path.insert(0, {bwrap.LIVERL!r}); from guest import remote; remote.main()"
PROGRAM = (bwrap.PYTHON, "-I", "-S", "-B", "-c", _BOOT, "liverl")
GONE = "/.liverl-gone"
WAIT = (*PROGRAM, "wait")
"""The first process of such a box."""


def boot(script: str, stdin: bytes, *, max_output: int) -> tuple[list[str], bytes]:
    program = script.encode()
    return [*PROGRAM, "run", *map(str, (len(program), max_output, len(program) + len(stdin)))], program + stdin


def command(argv: Sequence[str], *, cwd: str, env: Mapping[str, str], mark: str) -> str:
    return _order("run", argv=list(argv), cwd=cwd, env={**env, MARK: mark})


def kill(mark: str, *, alone: bool) -> tuple[list[str], bytes]:
    return [*PROGRAM, "kill", f"{MARK}={mark}", "alone" if alone else ""], b""


def folders_script(folders: Iterable[str]) -> str:
    return _order("folders", folders=list(folders))


def unpack_script(root: str = "/") -> str:
    return _order("unpack", root=root)


def folder_script(folder: str) -> str:
    return _order("folders", folders=[folder])


def part_script(name: str, size: int) -> str:
    return _order("part", name=name, size=size)


def join_script(folder: str, count: int, root: str = "/", *, packed: bool = False) -> str:
    return _order("join", folder=folder, count=count, root=root, packed=packed)


def pack_script(paths: Sequence[str], *, file: str, max_bytes: int, first: int, gone: str = "") -> str:
    """gone: the name under which what is gone of all that was known is listed in the archive."""
    limit = archive_limit(max_bytes)
    return _order("pack", paths=list(paths), file=file, max_bytes=max_bytes, first=first, limit=limit, gone=gone)


def rest_script(file: str, start: int, size: int) -> str:
    return _order("rest", file=file, start=start, size=size)


def remove_script(file: str) -> str:
    return _order("remove", file=file)


def erase_script(paths: Sequence[str]) -> str:
    return _order("erase", paths=list(paths))


def _order(operation: str, **arguments: Any) -> str:
    return json.dumps({"op": operation, **arguments})
