"""Reads git repositories: no hook, filter or setting of the repository runs, and only what is asked for is read.

A folder may be a clone, a worktree or a submodule of another. Knows no packages and no tasks.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runtime.errors import MachineError, UserError

_GIT = (
    *("git", "-c", "safe.directory=*", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"),
    *("-c", "core.quotePath=false", "--no-replace-objects", "--no-pager"),
)
_LIMIT_SEC = 300.0


def run(repository: Path, *arguments: str, stdin: bytes = b"", about: str = "") -> bytes:
    """What git prints. Raises ``UserError`` where it fails, ``MachineError`` where there is no git."""
    command = [*_GIT, "-C", str(repository), *arguments]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
    try:
        done = subprocess.run(
            command, env=environment, input=stdin, capture_output=True, timeout=_LIMIT_SEC, check=False
        )
    except FileNotFoundError as error:
        raise MachineError("git is missing", fix="apt-get install -y git") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{repository}: git {arguments[0]} took longer than {_LIMIT_SEC:.0f} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        what = f" {about}" if about else ""
        raise UserError(
            f"{repository}: git {arguments[0]}{what}: {said[0]}; give the folder of a git repository with commits"
            + (", and a commit, tag or branch of it" if about else "")
        )
    return done.stdout


def names(output: bytes) -> list[str]:
    """Names that git ended with NUL; bytes that are no UTF-8 as in file names of this process."""
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def tracked(folder: Path) -> list[str] | None:
    """Paths below ``folder`` of the files that git knows, those of submodules that are checked out included; None for
    a folder that is not in a repository, or that its repository does not know."""
    try:
        found = names(run(folder, "ls-files", "-z", "--cached", "--recurse-submodules"))
    except UserError:
        if (folder / ".git").exists():
            raise
        return None
    return found if found or (folder / ".git").exists() else None


def files_of(repository: Path, revision: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every regular file of a commit, as git keeps it. Links and submodules are left out."""
    wanted: dict[str, str] = {}
    for entry in run(repository, "ls-tree", "-r", "-z", "--full-tree", revision).split(b"\0"):
        about, _, name = entry.partition(b"\t")
        mode, _, rest = about.partition(b" ")
        if mode in (b"100644", b"100755", b"100664"):
            wanted[os.fsdecode(name)] = rest.split(b" ")[1].decode()
    contents = _blobs(repository, list(dict.fromkeys(wanted.values())))
    yield from ((path, contents[digest]) for path, digest in wanted.items())


def _blobs(repository: Path, digests: Sequence[str]) -> Mapping[str, bytes]:
    out = run(repository, "cat-file", "--batch", stdin="".join(f"{digest}\n" for digest in digests).encode())
    found: dict[str, bytes] = {}
    at = 0
    for digest in digests:
        end = out.index(b"\n", at)
        words = out[at:end].split(b" ")
        if len(words) != 3:
            raise UserError(f"{repository}: git lacks {digest[:12]} ({words[-1].decode()}); fetch the whole history")
        size = int(words[2])
        found[digest] = out[end + 1 : end + 1 + size]
        at = end + 1 + size + 1
    return found
