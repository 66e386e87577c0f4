"""An agent's work as the difference of two trees: what it left in its box against the task's pristine repository.

Contents, the executable bit, links, empty folders and what is gone all count; owners, times and special files do not.
``put`` makes the one tree of the other. It does not know which parts of the work a verdict takes over.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import MAX_TOTAL_BYTES
from runtime.sandboxes.base import Sandbox
from runtime.sandboxes.entries import Entry, Folder, Link, Program, Removed, Same, mark, marked
from runtime.task import Task

_PUT_SEC = 60.0
_FUNCTIONS = """set -e
clear() { if [ -L "$1" ] || [ ! -d "$1" ]; then rm -f -- "$1"; fi; }
gone() { if [ -L "$1" ] || [ ! -d "$1" ]; then rm -f -- "$1"; else rmdir -- "$1" 2>/dev/null || :; fi; }"""


async def collect(task: Task, sandbox: Sandbox) -> dict[str, Entry]:
    """What the agent changed of what the task hands in, by path inside. Raises
    ``ArtifactsRefused`` for more than may be taken over.
    """
    workdir = PurePosixPath(task.config.environment.workdir)
    declared = list(task.handed_in)
    # Repositories of images are too large to travel for the few files that an agent changes.
    known = await asyncio.to_thread(_known, task.repository, workdir, declared) if task.work.image else None
    tree = await sandbox.tree(declared, max_bytes=MAX_TOTAL_BYTES, known=known)
    return difference(task.repository, workdir, tree, declared)


def difference(
    pristine: Path, workdir: PurePosixPath, tree: Mapping[str, Entry], declared: list[str]
) -> dict[str, Entry]:
    """Path inside -> what must be there in place of what ``pristine`` has. ``declared``: paths inside whose trees
    ``tree`` holds; elsewhere nothing is known to be gone.
    """
    found: dict[str, Entry] = {}
    filled = {str(folder) for name in tree for folder in PurePosixPath(name).parents}
    before = dict(_pristine(pristine, workdir, declared))
    for name, entry in tree.items():
        if isinstance(entry, Folder):
            if not PurePosixPath(name).is_relative_to(workdir):
                continue  # outside of the work directory only what lies in folders is work
            if name not in before and name not in filled:
                found[name] = entry
            elif name in before and not isinstance(before[name], Folder):
                found[name] = Removed() if name in filled else entry
        elif not _equal(before.get(name), entry):
            found[name] = entry
    for name in before:
        if name not in tree and name not in found and name not in filled:
            found[name] = Removed()
    return found


@functools.lru_cache(maxsize=16)
def _marks(root: Path) -> dict[str, str]:
    """Path below the pristine work directory, which is never written, -> what it is known by."""
    found = {}
    for name, entry in _pristine(root, PurePosixPath("/"), ["/"]):
        if isinstance(entry, Path):
            executable = bool(entry.stat().st_mode & 0o100)
            found[name] = mark("x" if executable else "f", entry.read_bytes())
        else:
            found[name] = mark(*marked(entry))
    return found


def _known(root: Path, workdir: PurePosixPath, declared: list[str]) -> dict[str, str]:
    whole = str(workdir) in declared
    inside = ((f"{workdir}{name}", is_) for name, is_ in _marks(root).items())
    return {
        name: is_ for name, is_ in inside if whole or any(PurePosixPath(name).is_relative_to(one) for one in declared)
    }


async def put(sandbox: Sandbox, changes: Mapping[str, Entry], *, workdir: str = "/app", mode: int = 0o644) -> None:
    """Make ``changes``, all below ``workdir``, in a box where no untrusted code has run. mode: of files; programs may
    be executed besides.

    Raises ``TrialError``.
    """
    others = [name for name, entry in changes.items() if not isinstance(entry, bytes | Program)]
    if others:  # deepest first, so that a folder that became something else is empty when its turn comes
        names = sorted(changes, key=lambda name: -name.count("/"))
        kept = {name for name, entry in changes.items() if isinstance(entry, Folder)}
        await _run(
            sandbox, workdir, [f"{'clear' if name in kept else 'gone'} {_below(workdir, name)}" for name in names]
        )
    files = {name: entry for name, entry in changes.items() if isinstance(entry, bytes)}
    programs = {name: entry.content for name, entry in changes.items() if isinstance(entry, Program)}
    if files:
        await sandbox.upload(files, mode=mode)
    if programs:
        await sandbox.upload(programs, mode=mode | (mode & 0o444) >> 2)
    after = []
    for name, entry in changes.items():
        if isinstance(entry, Folder):
            after.append(f"mkdir -p -- {_below(workdir, name)}")
        elif isinstance(entry, Link):
            after.append(f"mkdir -p -- {_below(workdir, str(PurePosixPath(name).parent))}")
            after.append(f"ln -s -- {shlex.quote(entry.target)} {_below(workdir, name)}")
    await _run(sandbox, workdir, after)


def _below(workdir: str, name: str) -> str:
    """The name from the work directory on, quoted: a box may know that folder by another name."""
    path = PurePosixPath(name)
    return shlex.quote(f"./{path.relative_to(workdir)}" if path.is_relative_to(workdir) else name)


async def _run(sandbox: Sandbox, workdir: str, commands: list[str]) -> None:
    if not commands:
        return
    script = "\n".join([_FUNCTIONS, *commands, ""]).encode(errors="surrogateescape")
    done = await sandbox.exec(["sh", "-s"], cwd=workdir, stdin=script, timeout_sec=_PUT_SEC)
    if done.exit_code != 0:
        why = done.stderr.decode(errors="replace").strip()[-300:]
        raise TrialError(Termination.VERIFIER_CRASHED, f"the work could not be put in place: {why}")


def _pristine(root: Path, workdir: PurePosixPath, declared: list[str]) -> Iterator[tuple[str, Entry | Path]]:
    """Path inside -> entry; files as their paths on the host, to be read when they are compared."""
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                name = workdir / path.relative_to(root)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                if not any(name.is_relative_to(part) for part in declared):
                    continue
                if entry.is_symlink():
                    yield str(name), Link(str(path.readlink()))
                elif entry.is_dir(follow_symlinks=False):
                    yield str(name), Folder()
                else:
                    yield str(name), path


def _equal(before: Entry | Path | None, after: Entry) -> bool:
    if isinstance(after, Same):
        return True
    if not isinstance(before, Path):
        return before == after
    content = after.content if isinstance(after, Program) else after
    if not isinstance(content, bytes):
        return False
    status = before.stat()
    executable = bool(status.st_mode & 0o100)
    same = executable == isinstance(after, Program) and status.st_size == len(content)
    return same and before.read_bytes() == content
